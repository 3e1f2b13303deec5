"""Runtimes of an index's vectors: recorded, used again for queries, reported if changed, refused if unstable."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from encodery.base.artifact import Artifact
from encodery.base.errors import ArtifactError, InputError, SettingsError
from encodery.cli.search import app
from encodery.encoders.dense import DenseEncoder
from encodery.model.load import load_model
from encodery.model.network import Model
from encodery.runtimes.batch import CheckedBatch
from encodery.runtimes.engine import InferenceEngine
from encodery.runtimes.kind import Runtime
from encodery.runtimes.kind.echo import EchoRuntime
from encodery.runtimes.kind.packed_int8 import PackedInt8
from encodery.runtimes.kind.torch import TorchRuntime
from encodery.search.build import IndexSettings, build
from encodery.search.encode import encode_documents
from encodery.search.load_retrievers import load_retriever
from encodery.search.passage_sources import comparable_settings, model_records
from encodery.search.retrievers.dense import DenseRetriever
from encodery.search.runtime_provenance import TORCH, RuntimeProvenance, provenance_of
from encodery.search.searcher import Searcher
from encodery.search.update import add
from encodery.tokens.tokenizer import Tokenizer

WORDS = "violin melody harbour sail onion pan storm anchor chord tempo garlic oven"
SETTINGS = IndexSettings(weight=0.5)


@pytest.fixture(scope="module")
def model(
    tmp_path_factory: pytest.TempPathFactory, word_tokenizer: Callable[..., Tokenizer], small_model: Callable[..., Path]
) -> Path:
    return small_model(tmp_path_factory.mktemp("dense"), word_tokenizer(WORDS.split()), max_length=24)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file, words = tmp_path / "rows.jsonl", WORDS.split()
    texts = (" ".join(words[(i * 5 + n * n) % 12] for n in range(3 + i % 4)) for i in range(20))
    file.write_text("".join(json.dumps({"id": f"t{i}", "text": text}) + "\n" for i, text in enumerate(texts)))
    return file


def cli(*arguments: Any) -> Any:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def noted(folder: Path) -> Any:
    return Artifact.open(folder).manifest.settings["models"]["dense"]["runtime"]


def test_an_index_is_queried_with_its_own_runtime_by_default(model: Path, rows: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    cli("index", rows, "--model", model, "--out", index, "--runtime", "echo", "weight=0.5")
    assert noted(index)["name"] == "echo"
    assert len(noted(index)["fingerprint"]) == 32
    same = cli("query", index, "violin storm", "--json")
    assert same.stderr == ""
    other = cli("query", index, "violin storm", "--json", "--runtime", "torch")
    assert other.stderr.count("\n") == 1
    assert "made by echo, those of the query by torch" in other.stderr
    assert len(json.loads(other.stdout)["hits"]) == len(json.loads(same.stdout)["hits"]) > 0
    assert "run by echo" in cli("stats", index).output
    with Searcher.open(index) as searcher:
        side = searcher.retrievers.model("dense")
        assert isinstance(side, DenseRetriever)
        expected = (
            DenseEncoder.from_loaded(load_model(model), "cpu")
            .with_runtime(EchoRuntime())
            .encode(["violin storm"])
            .vectors
        )
        np.testing.assert_allclose(side.encoder.encode(["violin storm"]).vectors, expected, atol=1e-6)
        assert searcher.warnings == ()


def test_another_runtime_makes_another_index(model: Path, rows: Path, tmp_path: Path) -> None:
    paths = {"dense": model}
    build([rows], tmp_path / "i", load_retriever(model, "echo"), SETTINGS, paths)
    assert not build([rows], tmp_path / "i", load_retriever(model, "echo"), SETTINGS, paths).is_new
    with pytest.raises(ArtifactError, match="other model or runtime"):
        build([rows], tmp_path / "i", load_retriever(model), SETTINGS, paths)


def test_encoded_documents_keep_their_runtime(model: Path, rows: Path, tmp_path: Path) -> None:
    encoded, index = tmp_path / "encoded", tmp_path / "index"
    cli("encode", rows, "--model", model, "--out", encoded, "--runtime", "echo")
    with pytest.raises(ArtifactError, match="other model or runtime"):
        encode_documents([rows], encoded, load_retriever(model), model_path={"dense": model})
    cli("index", "--encoded", encoded, "--out", index)
    assert noted(index)["name"] == "echo"


def test_what_is_added_is_made_by_the_same_runtime(model: Path, rows: Path, tmp_path: Path) -> None:
    more = tmp_path / "more.jsonl"
    more.write_text(json.dumps({"id": "new", "text": "garlic garlic oven"}) + "\n")
    build([rows], tmp_path / "i", load_retriever(model, "echo"), SETTINGS, {"dense": model})
    with (
        Searcher.open(tmp_path / "i", runtime="torch") as searcher,
        pytest.raises(ArtifactError, match="come from one runtime"),
    ):
        add(searcher.index, searcher.retrievers, [more])
    with Searcher.open(tmp_path / "i") as searcher:
        assert add(searcher.index, searcher.retrievers, [more])["documents"] == 1
        assert searcher.search("garlic garlic oven", 1, "dense").hits[0].document == "new"


@dataclass(frozen=True, kw_only=True)
class Wavering(Runtime):
    """Rounds to eight steps of the greatest number of the whole batch, as dynamic quantisation does, only coarser."""

    def build(self, model: Model) -> InferenceEngine:
        return _WaveringEngine(TorchRuntime().build(model))


class _WaveringEngine(InferenceEngine):
    def __init__(self, inner: InferenceEngine) -> None:
        super().__init__(inner.limits)
        self.inner = inner

    def hidden_states(self, batch: CheckedBatch) -> np.ndarray:
        states = self.inner.hidden_states(batch) * (1 + np.arange(len(batch.ids)) / 5)[:, None]
        step = np.abs(states).max() / 4
        rounded: np.ndarray = (np.rint(states / step) * step).astype(np.float32)
        return rounded


def test_a_runtime_whose_vectors_depend_on_their_batch_is_refused(model: Path, rows: Path, tmp_path: Path) -> None:
    wavering = DenseEncoder.from_loaded(load_model(model), "cpu").with_runtime(Wavering())
    with pytest.raises(SettingsError, match="depends on the other texts"):
        build([rows], tmp_path / "i", wavering, SETTINGS)
    with pytest.raises(SettingsError, match="depends on the other texts"):
        encode_documents([rows], tmp_path / "e", wavering)
    assert not (tmp_path / "i").exists()
    assert not (tmp_path / "e").exists()


def test_a_runtime_that_is_gone_is_named_with_a_way_out(
    model: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build([rows], tmp_path / "i", load_retriever(model, "echo"), SETTINGS, {"dense": model})
    monkeypatch.setattr(RuntimeProvenance, "runtime_argument", "/nowhere/export")
    with (
        Searcher.open(tmp_path / "i") as searcher,
        pytest.raises(ArtifactError, match=r"cannot run here.*--runtime torch"),
    ):
        searcher.search("violin", mode="dense")


def test_runtimes_need_a_model_of_one_vector_a_text(rows: Path, tmp_path: Path) -> None:
    build([rows], tmp_path / "words", None)
    with pytest.raises(InputError, match="runtime = 'echo': applies to dense models"):
        Searcher.open(tmp_path / "words", runtime="echo")
    with pytest.raises(InputError, match="--runtime echo"):
        cli("index", rows, "--out", tmp_path / "other", "--runtime", "echo")


def test_what_tells_runtimes_apart(model: Path) -> None:
    plain = DenseEncoder.from_loaded(load_model(model), "cpu")
    assert provenance_of(plain) == provenance_of(plain.with_runtime(TorchRuntime())) == TORCH
    assert provenance_of(plain.with_runtime(EchoRuntime())).same_vectors(
        provenance_of(plain.with_runtime(EchoRuntime()))
    )
    assert not provenance_of(plain.with_runtime(EchoRuntime())).same_vectors(
        provenance_of(plain.with_runtime(EchoRuntime(seconds_per_token=1e-9)))
    )
    assert (
        plain.with_runtime(EchoRuntime()).model_fingerprint
        == plain.fingerprint
        != plain.with_runtime(EchoRuntime()).fingerprint
    )


def test_records_differ_by_runtime_and_not_by_path(model: Path) -> None:
    record = model_records([load_retriever(model)], {"dense": model})
    moved = {mode: entry | {"path": "/elsewhere"} for mode, entry in record.items()}
    assert comparable_settings(record) == comparable_settings(moved)
    other = model_records([load_retriever(model, "echo")], {"dense": model})
    assert comparable_settings(record) != comparable_settings(other)


def test_vectors_by_8_bit_products_rank_as_by_float32(
    small_model: Callable[..., Path], word_tokenizer: Callable[..., Tokenizer], rows: Path, tmp_path: Path
) -> None:
    sizes = {"width": 64, "max_length": 24}
    model = small_model(tmp_path / "m", word_tokenizer(WORDS.split()), **sizes)
    plain = DenseEncoder.from_loaded(load_model(model), "cpu")
    try:
        packed = plain.with_runtime(PackedInt8())
    except SettingsError as error:
        pytest.skip(str(error))
    documents_by_runtime = {}
    for name, encoder in {"torch": plain, "packed_int8": packed}.items():
        build([rows], tmp_path / name, encoder, SETTINGS, {"dense": model})
        with Searcher.open(tmp_path / name, encoders=plain) as searcher:
            documents_by_runtime[name] = [
                hit.document for hit in searcher.search("violin storm onion", 20, "dense").hits
            ]
            assert bool(searcher.warnings) == (name == "packed_int8")
    assert len(set(documents_by_runtime["torch"][:5]) & set(documents_by_runtime["packed_int8"][:5])) >= 4
