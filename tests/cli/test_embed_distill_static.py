"""encodery embed distill-static: the verb, and its result under other verbs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from encodery.cli.__main__ import run
from encodery.model.load import save_model
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.tokens.kind.wordpiece import Wordpiece
from encodery.tokens.tokenizer import Tokenizer

TEXT = "an encoder of many words reads this text of words and more"


def test_a_static_model_is_written_and_embeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Tokenizer(Wordpiece(min_frequency=1).train([TEXT] * 3, 100))
    made.set_template()
    made.save(tmp_path / "tokenizer")
    settings = ModelSettings(width=32, depth=1, heads=2, vocab_size=192, max_length=32)
    save_model(tmp_path / "model", build_model(settings, 1), tmp_path / "tokenizer")
    (tmp_path / "texts.txt").write_text(f"{TEXT}\n{TEXT}\n", encoding="utf-8")
    model, out = str(tmp_path / "model"), str(tmp_path / "static")
    assert (
        run(["embed", "distill-static", model, "--out", out, "dimension=8", "--texts", str(tmp_path / "texts.txt")])
        == 0
    )
    assert "of the variance of the embeddings kept" in capsys.readouterr().out
    assert run(["embed", "encode", "many words", "--model", out]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 8
    assert run(["embed", "distill-static", model, "--out", out, "dimension=8"]) == 2
    assert "already exists" in capsys.readouterr().err
    assert run(["embed", "distill-static", model, "--out", out, "dimensoin=8", "--overwrite"]) == 2
    assert "Did you mean 'dimension'" in capsys.readouterr().err
