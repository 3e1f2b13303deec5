"""Exports to other engines: equal embeddings, similar ones in 8 bits; drift is refused; PyTorch is not needed."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import encodery
from encodery.base.artifact import Artifact
from encodery.base.errors import ArtifactError, InputError, SettingsError
from encodery.base.parts import part_names
from encodery.base.settings import decode
from encodery.encoders.dense import DenseEncoder
from encodery.encoders.exported import ExportedEncoder, parse_runtime
from encodery.export import Exporter
from encodery.model.conversion import Origin
from encodery.model.load import LoadedModel, load_model, save_model
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.tokens.kind.wordpiece import Wordpiece
from encodery.tokens.tokenizer import Tokenizer

NAMES = ("onnx", "openvino")
TEXT = "a masked language model predicts words that were masked in a text of many other words"
WORDS = TEXT.split()
SETTINGS = ModelSettings(width=32, depth=2, heads=2, vocab_size=192, max_length=40, type_vocab_size=2)
EMBED: dict[str, Any] = {"pooling": "mean", "postprocess": ["normalise"], "prompts": {"query": "query: "}}


def random_texts(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 14))) for _ in range(count)]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp("model")
    made = Tokenizer(Wordpiece(min_frequency=1).train([" ".join(WORDS)] * 3, 100))
    made.set_template()
    made.save(folder / "tokenizer")
    model = build_model(SETTINGS, 1)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # At its beginning a model adds so little to the word's vector that 8 bits hide in rounding.
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.2)
    save_model(folder / "model", model, folder / "tokenizer", settings={"dense": EMBED})
    return load_model(folder / "model")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    (tmp_path / "texts.txt").write_text("\n".join(random_texts(80)))
    return tmp_path / "texts.txt"


def exporter(name: str, **settings: Any) -> Exporter:
    for package in ("onnx", "onnxruntime" if name == "onnx" else "openvino"):
        pytest.importorskip(package)
    return decode(Exporter, {"is": name, **settings})


@pytest.mark.parametrize("name", NAMES)
def test_an_export_gives_the_embeddings_of_the_model(name: str, loaded: LoadedModel, tmp_path: Path) -> None:
    done = exporter(name).write(loaded, tmp_path / "out")
    assert done.metrics["cosine_min"] > 0.9999
    embedder = DenseEncoder.from_loaded(loaded, "cpu")
    batch = [*random_texts(30), "", " ".join(WORDS * 4)]
    expected = embedder.encode(batch, truncate="chunk").vectors
    served = ExportedEncoder(tmp_path / "out", threads=2)
    np.testing.assert_allclose(served.encode(batch, truncate="chunk").vectors, expected, rtol=0, atol=1e-5)
    with_engine = embedder.with_runtime(parse_runtime(str(tmp_path / "out")))
    np.testing.assert_allclose(with_engine.encode(batch, truncate="chunk").vectors, expected, rtol=0, atol=1e-5)
    one = encodery.load(loaded.path, runtime=str(tmp_path / "out")).encode(batch[:3])
    np.testing.assert_allclose(one, expected[:3], rtol=0, atol=1e-5)
    expected_query = embedder.encode(["words"], prompt="query").vectors
    np.testing.assert_allclose(served.encode(["words"], prompt="query").vectors, expected_query, rtol=0, atol=1e-5)
    assert (served.dimension, served.max_content_tokens) == (embedder.dimension, embedder.max_content_tokens)
    with pytest.raises(InputError, match="the model takes 38"):
        served.encode(batch)
    with pytest.raises(InputError, match="Did you mean 'query'"):
        served.encode(["words"], prompt="qery")


@pytest.mark.usefixtures("needs_vnni")
@pytest.mark.parametrize("name", NAMES)
def test_8_bit_embeddings_are_similar_and_independent_of_the_batch(
    name: str, loaded: LoadedModel, texts: Path, tmp_path: Path
) -> None:
    done = exporter(name, weights="int8", texts=str(texts)).write(loaded, tmp_path / "out")
    assert 0.993 <= done.metrics["cosine_min"] <= done.metrics["cosine_mean"] < 0.9999999
    assert done.metrics["texts"] == 20
    assert 0 < done.metrics["top_10_overlap"] <= 1
    assert done.metrics["ms_per_text"] > 0
    assert done.metrics["megabytes"] > 0
    assert Artifact.open(tmp_path / "out").manifest.metrics == done.metrics
    served = ExportedEncoder(tmp_path / "out", threads=1)
    batch = random_texts(40)
    together = served.encode(batch).vectors
    alone = np.concatenate([served.encode([text]).vectors for text in batch])
    assert (together * alone).sum(1).min() > 0.9995


@pytest.mark.usefixtures("needs_vnni")
def test_8_bit_weights_have_one_scale_per_channel(loaded: LoadedModel, texts: Path, tmp_path: Path) -> None:
    exporter("onnx", weights="int8", texts=str(texts)).write(loaded, tmp_path / "out")
    onnx = pytest.importorskip("onnx")
    held = {one.name: one for one in onnx.load(tmp_path / "out" / "model.onnx").graph.initializer}
    bits = [one for one in held.values() if one.data_type == onnx.TensorProto.INT8 and len(one.dims) == 2]
    scales = [one for name, one in held.items() if name.endswith("weight_scale")]
    assert len(bits) == len(scales) == 12, "query, key, value, out, up and down of two layers"
    assert all(len(one.dims) == 1 and one.dims[0] in (32, 128) for one in scales)


@pytest.mark.parametrize("name", NAMES)
def test_drift_is_refused_and_nothing_is_left(name: str, loaded: LoadedModel, texts: Path, tmp_path: Path) -> None:
    strict = exporter(name, weights="int8", texts=str(texts), min_cosine=0.9999999)
    with pytest.raises(ArtifactError, match="drift from the model's: over 20 texts"):
        strict.write(loaded, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"texts.txt"}


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_exported_is_refused(name: str, loaded: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="needs texts = FILE"):
        exporter(name, weights="int8").write(loaded, tmp_path / "out")
    (tmp_path / "few.txt").write_text("one\ntwo\n")
    with pytest.raises(InputError, match="has 2 texts, but 8-bit weights need at least 40"):
        exporter(name, weights="int8", texts=str(tmp_path / "few.txt")).write(loaded, tmp_path / "out")
    ends = LoadedModel(
        loaded.path, loaded.model, {"dense": {"pooling": "weighted"}}, tokenizer_path=loaded.tokenizer_path
    )
    with pytest.raises(SettingsError, match="pooling = 'weighted'"):
        exporter(name).write(ends, tmp_path / "out")
    with pytest.raises(SettingsError, match="head would be lost"):
        exporter(name).write(LoadedModel(loaded.path, loaded.model, {"task": {}}), tmp_path / "out")


@pytest.mark.parametrize("name", NAMES)
def test_the_head_of_a_stock_folder_is_not_dropped(name: str, loaded: LoadedModel, tmp_path: Path) -> None:
    config = {"architectures": ["BertForSequenceClassification"]}
    stock = dataclasses.replace(loaded, artifact=None, settings={}, origin=Origin("bert", config))
    with pytest.raises(SettingsError, match="BertForSequenceClassification"):
        exporter(name).write(stock, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", NAMES)
def test_an_export_of_another_model_is_refused(name: str, loaded: LoadedModel, tmp_path: Path) -> None:
    exporter(name).write(loaded, tmp_path / "out")
    other = DenseEncoder(build_model(SETTINGS, 2), loaded.tokenizer, device="cpu")
    with pytest.raises(ArtifactError, match="exported from another model"):
        other.with_runtime(parse_runtime(str(tmp_path / "out")))
    with pytest.raises(ArtifactError, match="is of kind 'model'"):
        ExportedEncoder(loaded.path)


def test_an_export_is_served_without_pytorch(loaded: LoadedModel, tmp_path: Path) -> None:
    exporter("onnx").write(loaded, tmp_path / "out")
    code = (
        "import json, sys; from encodery.encoders.exported import ExportedEncoder; "
        f"result = ExportedEncoder({str(tmp_path / 'out')!r}).encode(['words of a model']).vectors; "
        "assert 'torch' not in sys.modules; print(json.dumps(result.tolist()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    expected = DenseEncoder.from_loaded(loaded, "cpu").encode(["words of a model"]).vectors
    np.testing.assert_allclose(json.loads(done.stdout), expected, rtol=0, atol=1e-5)


def test_formats_that_a_runtime_runs_have_an_exporter_of_the_same_name() -> None:
    from encodery.encoders.exported import RUNTIME_LAYOUTS
    from encodery.runtimes.kind import Runtime

    assert set(RUNTIME_LAYOUTS) <= set(part_names(Exporter)) & set(part_names(Runtime))
