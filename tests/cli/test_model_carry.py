"""A task head or a trained pooling is kept when its encoder is changed, and its golden outputs are recomputed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from encodery.base.settings import encode
from encodery.cli.__main__ import run
from encodery.encoders import storage
from encodery.encoders.dense import DenseEncoder
from encodery.encoders.pooling.attention import AttentionPooling
from encodery.encoders.settings import DenseSettings
from encodery.model import golden
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
    embed = DenseSettings(pooling=AttentionPooling())
    pooling = embed.pooling.build(settings.shape)
    for p in pooling.parameters():
        torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(0))
    embedder = DenseEncoder(model, tokenizer, embed, None, "cpu", pooling)
    kept = storage.module_tensors(embedder.pooling, embedder.postprocessing)
    kept["golden"] = storage.golden_vectors(embedder.pool_batch, golden.golden_outputs(model), embedder.device)
    place = tmp_path / "pooled"
    save_model(place, model, tmp_path / "tokenizer", settings={"embed": encode(embed)}, modules={"embed": kept})
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


def test_an_unknown_module_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ModelSettings(width=16, depth=1, heads=2, intermediate_size=16, vocab_size=30, max_length=16)
    save_model(tmp_path / "odd", build_model(settings), modules={"odd": {"w": torch.ones(2)}})
    command = ["model", "edit", str(tmp_path / "odd"), "--surgery", "lengthen", "max_length=64"]
    assert run([*command, "--out", str(tmp_path / "no")]) == 2
    assert "its module 'odd' cannot be moved" in capsys.readouterr().err.replace("\n", " ")
