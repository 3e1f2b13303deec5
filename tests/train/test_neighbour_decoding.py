"""Runs on neighbouring spans: learned, resumed bit for bit, and without the decoder in the saved model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from encodery.model.load import load_model
from encodery.train.launch import resume, start
from encodery.train.recipe import Recipe


def test_a_run_is_resumed_bit_for_bit_and_reports_the_decoder(
    table: Callable[..., Recipe[Any]],
    tmp_path: Path,
    power_cut: Callable[[int], AbstractContextManager[None]],
    losses: Callable[[Path], dict[int, float]],
) -> None:
    recipe = table(objective={"is": "neighbour_decoding"}, train={"budget": "24steps"})
    metrics = start(recipe, tmp_path / "whole").metrics
    assert {"heldout_loss", "heldout_accuracy", "bits_per_byte", "context", "context_accuracy"} <= metrics.keys()
    loaded = load_model(tmp_path / "whole")
    assert list(loaded.model.heads) == ["mlm"]
    assert not any("decoder.blocks" in name for name, _ in loaded.model.named_parameters())
    with power_cut(10):
        start(recipe, tmp_path / "torn")
    resume(tmp_path / "torn")
    whole = losses(tmp_path / "whole")
    assert losses(tmp_path / "torn") == whole
    assert whole[max(whole)] < whole[min(whole)] - 0.5
