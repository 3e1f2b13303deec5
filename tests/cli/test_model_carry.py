"""A task head or a trained pooling is kept when its encoder is changed, and its golden outputs are recomputed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from encodery.base.settings import encode
from encodery.cli.__main__ import run
from encodery.encoders.dense import DenseEncoder
from encodery.encoders.pooling.attention import AttentionPooling
from encodery.encoders.settings import DenseSettings
from encodery.model.load import load_model, save_model
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.tokens.kind.wordpiece import Wordpiece
from encodery.tokens.tokenizer import Tokenizer

TEXTS = ["the river ran past the old mill", "a miller mills, a river runs"]


@pytest.fixture
def pooled(tmp_path: Path) -> Path:
    """A model whose pooling was trained."""
    tokenizer = Tokenizer(Wordpiece().train(TEXTS * 4, 90))
    tokenizer.save(tmp_path / "tokenizer")
    settings = ModelSettings(
        width=16, depth=1, heads=2, intermediate_size=16, vocab_size=tokenizer.vocab_size, max_length=32
    )
    model = build_model(settings, 1).eval()
    dense = DenseSettings(pooling=AttentionPooling())
    pooling = dense.pooling.build(settings.shape)
    for p in pooling.parameters():
        torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(0))
    encoder = DenseEncoder(model, tokenizer, dense, None, "cpu", pooling)
    stored, place = encoder.stored(), tmp_path / "pooled"
    save_model(place, model, tmp_path / "tokenizer", settings=stored.settings, modules=stored.modules)
    return place


def test_a_trained_pooling_is_kept(pooled: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("thunderstorm\n", encoding="utf-8")
    words, longer = tmp_path / "words", tmp_path / "longer"
    assert (
        run(
            [
                "model",
                "edit",
                str(pooled),
                "--surgery",
                "vocabulary",
                f"words={tmp_path / 'words.txt'}",
                "--out",
                str(words),
            ]
        )
        == 0
    )
    assert run(["model", "edit", str(words), "--surgery", "lengthen", "max_length=64", "--out", str(longer)]) == 0
    before, after = (DenseEncoder.from_loaded(load_model(place), device="cpu") for place in (pooled, longer))
    assert before.settings.pooling == after.settings.pooling == AttentionPooling()
    np.testing.assert_allclose(after.encode(TEXTS).vectors, before.encode(TEXTS).vectors, atol=1e-6)
    assert after.encode(["a thunderstorm"]).tokens < before.encode(["a thunderstorm"]).tokens


def test_a_merged_model_has_no_embedding_without_a_head_option(pooled: Path, tmp_path: Path) -> None:
    both = [str(pooled), str(pooled)]
    assert run(["model", "merge", *both[1:], "--base", both[0], "--out", str(tmp_path / "bare")]) == 0
    assert "dense" not in load_model(tmp_path / "bare").settings
    assert (
        run(["model", "merge", *both[1:], "--base", both[0], "--head", both[0], "--out", str(tmp_path / "same")]) == 0
    )
    before, after = (DenseEncoder.from_loaded(load_model(place), device="cpu") for place in (pooled, tmp_path / "same"))
    np.testing.assert_allclose(after.encode(TEXTS).vectors, before.encode(TEXTS).vectors, atol=1e-6)


def test_embedding_settings_without_weights_are_kept_and_shown(
    pooled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded, dense = load_model(pooled), {"dense": encode(DenseSettings(prompts={"query": "find: "}))}
    save_model(tmp_path / "mean", loaded.model, loaded.tokenizer_path, settings=dense)
    names = [str(tmp_path / "mean"), "--base", str(tmp_path / "mean")]
    assert run(["model", "merge", *names, "--out", str(tmp_path / "merged")]) == 0
    assert load_model(tmp_path / "merged").settings["dense"] == dense["dense"]
    capsys.readouterr()
    assert run(["model", "show", str(tmp_path / "merged"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dense"] == dense["dense"]


def test_an_unknown_module_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ModelSettings(width=16, depth=1, heads=2, intermediate_size=16, vocab_size=30, max_length=16)
    save_model(tmp_path / "odd", build_model(settings), modules={"odd": {"w": torch.ones(2)}})
    command = ["model", "edit", str(tmp_path / "odd"), "--surgery", "lengthen", "max_length=64"]
    assert run([*command, "--out", str(tmp_path / "no")]) == 2
    assert "its module 'odd' cannot be moved" in capsys.readouterr().err.replace("\n", " ")
