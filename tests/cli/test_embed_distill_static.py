"""encodery embed distill-static: the verb, and its result under other verbs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from encodery.cli.__main__ import run
from encodery.encoders.loading import load_encoder
from encodery.encoders.static import StaticEncoder
from encodery.model.load import load_model, save_model
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.tokens.kind.wordpiece import Wordpiece
from encodery.tokens.tokenizer import Tokenizer

TEXT = "an encoder of many words reads this text of words and more"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small random model."""
    made = Tokenizer(Wordpiece(min_frequency=1).train([TEXT] * 3, 100))
    made.set_template()
    made.save(tmp_path / "tokenizer")
    settings = ModelSettings(width=32, depth=1, heads=2, vocab_size=192, max_length=32)
    save_model(tmp_path / "model", build_model(settings, 1), tmp_path / "tokenizer")
    return tmp_path / "model"


def test_a_static_model_is_written_and_embeds(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts.txt").write_text(f"{TEXT}\n{TEXT}\n", encoding="utf-8")
    out = str(tmp_path / "static")
    assert (
        run(
            ["embed", "distill-static", str(model), "--out", out, "dimension=8", "--texts", str(tmp_path / "texts.txt")]
        )
        == 0
    )
    assert "of the variance of the embeddings kept" in capsys.readouterr().out
    assert run(["embed", "encode", "many words", "--model", out]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 8
    assert run(["embed", "distill-static", str(model), "--out", out, "dimension=8"]) == 2
    assert "already exists" in capsys.readouterr().err
    assert run(["embed", "distill-static", str(model), "--out", out, "dimensoin=8", "--overwrite"]) == 2
    assert "Did you mean 'dimension'" in capsys.readouterr().err


def test_other_verbs_know_a_static_model(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def succeeds(*arguments: object) -> str:
        assert run([str(one) for one in arguments]) == 0
        return capsys.readouterr().out

    def fails(*arguments: object) -> str:
        assert run([str(one) for one in arguments]) == 2
        return " ".join(capsys.readouterr().err.split())

    static, other = tmp_path / "static", tmp_path / "other"
    succeeds("embed", "distill-static", model, "--out", static, "dimension=8")
    succeeds("embed", "distill-static", model, "--out", other, "dimension=8", "sif_coefficient=0")
    assert json.loads(succeeds("model", "show", static, "--json"))["static"]["postprocess"] == [{"is": "normalise"}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"id": "d1", "text": TEXT}) + "\n", encoding="utf-8")
    index = tmp_path / "index"
    succeeds("search", "index", tmp_path / "rows.jsonl", "--model", static, "--out", index)
    hits = json.loads(succeeds("search", "query", index, "many words", "--mode", "dense", "--json"))["hits"]
    assert [hit["document"] for hit in hits] == ["d1"]

    merged, edited = tmp_path / "merged", tmp_path / "edited"
    succeeds("model", "merge", static, other, "--base", static, "--out", merged)
    (tmp_path / "words.txt").write_text("thunderstorm\n", encoding="utf-8")
    succeeds("model", "edit", static, "--surgery", "vocabulary", f"words={tmp_path / 'words.txt'}", "--out", edited)
    vectors = [load_encoder(load_model(path), "cpu").encode(["many words"]) for path in (static, other, merged, edited)]
    assert all(isinstance(load_encoder(load_model(path)), StaticEncoder) for path in (merged, edited))
    np.testing.assert_allclose(vectors[3].vectors, vectors[0].vectors, atol=1e-6)
    assert (
        0
        < np.abs(vectors[2].vectors - vectors[0].vectors).max()
        < np.abs(vectors[1].vectors - vectors[0].vectors).max()
    )

    assert "no layers that a runtime could run" in fails("embed", "encode", "a", "--model", static, "--runtime", "echo")
    assert "this one is static" in fails("model", "export", static, "--format", "onnx", "--out", tmp_path / "onnx")
