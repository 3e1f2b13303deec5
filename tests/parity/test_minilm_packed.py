"""all-MiniLM-L6-v2 in the packed engine, for real texts: equal embeddings in fp32, similar ones in 8 bits."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets

from encodery.base.settings import decode
from encodery.encoders.dense import DenseEncoder
from encodery.export import Exporter
from encodery.model.load import load_model
from encodery.runtimes.kind.packed_fp32 import PackedFP32
from encodery.runtimes.kind.packed_int8 import PackedInt8
from encodery.runtimes.kind.torch import TorchRuntime
from encodery.runtimes.native import LIBRARY

compiled = pytest.mark.skipif(not LIBRARY.is_file(), reason="the packed engine was not compiled at install")


@compiled
def test_fp32_gives_the_embeddings_of_the_model(minilm: Path, texts: list[str]) -> None:
    embedder = DenseEncoder.from_loaded(load_model(minilm), "cpu")
    some = texts[:60]
    exact = embedder.with_runtime(TorchRuntime()).encode(some, truncate="right").vectors
    packed = embedder.with_runtime(PackedFP32())
    actual = packed.encode(some, truncate="right").vectors
    np.testing.assert_allclose(actual, exact, atol=2e-6)
    assert np.array_equal(packed.encode(some[7:9], truncate="right").vectors, actual[7:9])


@compiled
def test_int8_embeddings_are_similar_to_those_of_the_model(minilm: Path, texts: list[str]) -> None:
    embedder = DenseEncoder.from_loaded(load_model(minilm), "cpu")
    some = texts[:60]
    exact = embedder.encode(some, truncate="right").vectors
    small = embedder.with_runtime(PackedInt8())
    actual = small.encode(some, truncate="right").vectors
    cosine = (exact * actual).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(actual, axis=1)
    assert cosine.mean() >= 0.997
    assert cosine.min() >= 0.993
    assert np.array_equal(small.encode(some[7:9], truncate="right").vectors, actual[7:9])
    assert small.fingerprint != embedder.fingerprint
    reference = embedder.with_runtime(TorchRuntime()).encode(some, truncate="right").vectors
    np.testing.assert_allclose(reference, exact, atol=2e-5)


@pytest.mark.usefixtures("needs_vnni")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_exports_reach_the_required_cosines(name: str, minilm: Path, tmp_path: Path) -> None:
    """On texts that were not calibrated with; a write that falls short is refused. Descriptions of scikit-learn's data
    sets, for they are the same wherever that version is; Python's own texts differ between its minor versions, and
    one of them falls short."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime" if name == "onnx" else name)
    folder = Path(inspect.getfile(sklearn.datasets)).parent / "descr"
    whole = "\n\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.rst")))
    texts = [" ".join(text.split()) for text in whole.split("\n\n") if len(text.split()) >= 12]
    assert len(texts) >= 120
    (tmp_path / "texts.txt").write_text("\n".join(texts[:120]))
    exporter = decode(Exporter, {"is": name, "weights": "int8", "texts": str(tmp_path / "texts.txt")})
    metrics = exporter.write(load_model(minilm), tmp_path / "out").metrics
    assert metrics["texts"] == 30
    assert metrics["cosine_mean"] >= 0.997
    assert metrics["cosine_min"] >= 0.993
