"""Runs whose objective keeps [MASK] tokens out of layers save an ordinary encoder."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from encodery.export.hf import HFExporter
from encodery.model.load import load_model
from encodery.model.shape import Batch
from encodery.train.launch import resume, start
from encodery.train.recipe import Recipe


@pytest.mark.parametrize("objective", ["mask_late", "masked_autoencoder"])
def test_a_run_saves_an_ordinary_encoder(objective: str, table: Callable[..., Recipe[Any]], tmp_path: Path) -> None:
    stock = {"depth": 2, "positions": "rotary", "block": {"is": "pre", "first_norm": False}, "mask": "document"}
    bare = {"attention": {"is": "full", "bias": False, "bias_out": False}, "norm": {"is": "layer", "bias": False}}
    gated = {"ffn": {"is": "glu", "bias": False, "bias_out": False}}
    recipe = table(model={**stock, **bare, **gated}, objective={"is": objective}, train={"budget": "40steps"})
    result = start(recipe, tmp_path / "run")
    assert result.metrics["heldout_loss"] < 5.0, (
        "the ring of tokens must be learned, and held-out text encoded as in training"
    )
    loaded = load_model(tmp_path / "run")
    assert not loaded.model.heads
    trained = {name for name, _ in loaded.model.named_parameters()}
    assert trained == {name for name in trained if name.startswith("encoder.")}
    hidden = loaded.model(Batch.from_sequences([[2, 9, 10, 3]])).hidden
    assert HFExporter(verify_with_peer=False).write(loaded, tmp_path / "hf").format == "modernbert"
    transformers = pytest.importorskip("transformers")
    stock_model = transformers.AutoModel.from_pretrained(tmp_path / "hf").eval()
    with torch.no_grad():
        theirs = stock_model(torch.tensor([[2, 9, 10, 3]])).last_hidden_state[0]
    torch.testing.assert_close(theirs, hidden, atol=1e-5, rtol=1e-4)


def test_the_decoder_is_resumed_with_its_weights(
    table: Callable[..., Recipe[Any]],
    tmp_path: Path,
    power_cut: Callable[[int], AbstractContextManager[None]],
    losses: Callable[[Path], dict[int, float]],
) -> None:
    recipe = table(objective={"is": "masked_autoencoder", "depth": 1})
    start(recipe, tmp_path / "whole")
    with power_cut(6):
        start(recipe, tmp_path / "torn")
    resume(tmp_path / "torn")
    assert losses(tmp_path / "torn") == losses(tmp_path / "whole")
