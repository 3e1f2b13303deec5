"""Softmax and linear attention in turn over the layers: such a model packs, learns, and is resumed bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from encodery.base.settings import decode
from encodery.model.count import flops_per_token
from encodery.model.load import load_model
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
from encodery.train.launch import resume, start
from encodery.train.recipe import Recipe

PATTERN = {"attention": {"is": "pattern", "of": ["linear", "full"]}, "depth": 4}
SIZES = {"width": 16, "heads": 2, "intermediate_size": 32, "max_length": 32}


def model_settings(**changes: Any) -> ModelSettings:
    return decode(ModelSettings, {**SIZES, **PATTERN, "vocab_size": 192, **changes})


def test_a_packed_batch_gives_what_its_sequences_give_alone() -> None:
    model = build_model(model_settings(init={"is": "normal", "std": 0.4}), 1).double().eval()
    assert [type(block.attention).__name__ for block in model.encoder.blocks[:2]] == ["_LinearModule", "_FullModule"]
    source = torch.Generator().manual_seed(0)
    sequences = [torch.randint(5, 192, (n,), generator=source).tolist() for n in (21, 1, 9, 30)]
    packed = model(Batch.from_sequences(sequences)).hidden
    alone = torch.cat([model(Batch.from_sequences([ids])).hidden for ids in sequences])
    torch.testing.assert_close(packed, alone, rtol=1e-9, atol=1e-10)


def test_only_the_softmax_layers_cost_more_in_long_sequences() -> None:
    grown, full = (
        flops_per_token(s, 4096) - flops_per_token(s, 128) for s in (model_settings(), model_settings(attention="full"))
    )
    assert grown == pytest.approx(full / 2)


def test_a_run_learns_and_is_resumed_bit_for_bit(
    table: Callable[..., Recipe[Any]],
    tmp_path: Path,
    power_cut: Callable[[int], AbstractContextManager[None]],
    losses: Callable[[Path], dict[int, float]],
) -> None:
    recipe = table(model=PATTERN, train={"budget": "40steps"})
    start(recipe, tmp_path / "whole")
    with power_cut(17):
        start(recipe, tmp_path / "torn")
    resume(tmp_path / "torn")
    whole = losses(tmp_path / "whole")
    assert losses(tmp_path / "torn") == whole
    assert sum(list(whole.values())[-5:]) / 5 < whole[min(whole)] - 0.5
    before, after = (
        load_model(tmp_path / name).model(Batch.from_sequences([[2, 9, 11, 3]])).hidden for name in ("whole", "torn")
    )
    assert torch.equal(before, after)
