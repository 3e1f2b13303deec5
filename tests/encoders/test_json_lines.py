"""Sparse and multi-vector embeddings as JSON lines, from Python and from `encodery embed encode`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from encodery.base.settings import encode
from encodery.cli.__main__ import run
from encodery.encoders.json_lines import json_lines
from encodery.encoders.loading import kind_of, load_encoder
from encodery.encoders.multi_vector import (
    KEY,
    MultiVectorEncoder,
    MultiVectorSettings,
    TokenProjection,
    golden_token_vectors,
)
from encodery.encoders.sparse import SparseEncoder, SparseSettings
from encodery.model.load import LoadedModel, load_model, save_model

TEXTS = ["a1 a2 b3", "", "a4"]


@pytest.fixture(scope="module")
def sparse(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp("sparse") / "model"
    settings = {"sparse": encode(SparseSettings(keep=5))}
    save_model(folder, loaded.model, loaded.tokenizer_path, settings=settings)
    return load_model(folder)


@pytest.fixture(scope="module")
def tokens(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp("tokens") / "model"
    torch.manual_seed(0)
    settings, projection = MultiVectorSettings(dimension=4), TokenProjection(32, 4)
    encoder = MultiVectorEncoder(loaded.model, loaded.tokenizer, projection, settings, "cpu")
    kept = {**projection.state_dict(), "golden": golden_token_vectors(encoder)}
    save_model(folder, loaded.model, loaded.tokenizer_path, settings={KEY: encode(settings)}, modules={KEY: kept})
    return load_model(folder)


def test_terms_with_their_weights(sparse: LoadedModel) -> None:
    assert kind_of(sparse.settings) == "sparse"
    expected = SparseEncoder.from_loaded(sparse, "cpu").encode(TEXTS)
    rows = [json.loads(line)["terms"] for line, _ in json_lines(load_encoder(sparse), TEXTS, "error")]
    for number, row in enumerate(rows):
        words, weights = expected.at(number)
        ids = {piece: sparse.tokenizer.backend.token_to_id(piece) for piece in row}
        result = {int(piece.strip("[]")) if ids[piece] is None else ids[piece]: w for piece, w in row.items()}
        assert result == pytest.approx(dict(zip(words.tolist(), weights.tolist(), strict=True)), abs=1e-5)
        assert list(row.values()) == sorted(row.values(), reverse=True)
        assert len(row) <= 5


def test_one_vector_per_token(tokens: LoadedModel) -> None:
    assert kind_of(tokens.settings) == "multi_vector"
    expected = MultiVectorEncoder.from_loaded(tokens, "cpu").encode(TEXTS)
    for number, (line, dropped) in enumerate(json_lines(load_encoder(tokens), TEXTS, "error")):
        np.testing.assert_allclose(json.loads(line)["vectors"], expected.at(number), atol=1e-6)
        assert dropped == 0
    long = " ".join(f"b{i}" for i in range(20))
    assert [dropped for _, dropped in json_lines(load_encoder(tokens), [long], "right")] == [6]


def test_the_command_writes_embeddings_of_any_kind(
    sparse: LoadedModel, tokens: LoadedModel, loaded: LoadedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kind_of(loaded.settings) == "dense"
    assert run(["embed", "encode", "a1 a2", "--model", str(sparse.path)]) == 0
    assert len(json.loads(capsys.readouterr().out)["terms"]) == 5
    out = tmp_path / "x.jsonl"
    assert run(["embed", "encode", "a1 a2", "b1", "--model", str(tokens.path), "--out", str(out)]) == 0
    assert "2 texts; 0 tokens dropped" in " ".join(capsys.readouterr().out.split())
    assert [len(json.loads(line)["vectors"]) for line in out.read_text().splitlines()] == [4, 3]
    assert run(["embed", "encode", "a1", "--model", str(tokens.path), "--out", str(tmp_path / "x.npy")]) == 2
    assert "written to .jsonl" in capsys.readouterr().err
    assert run(["embed", "encode", " ".join(["a1"] * 30), "--model", str(sparse.path), "--truncate", "left"]) == 0
    assert "16 tokens were dropped" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.jsonl"]
