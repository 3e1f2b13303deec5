"""Contract of initialisations, for all parts in the folder."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode, encode
from encodery.model.init import Init
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings

SETTINGS = ModelSettings(width=64, depth=8, heads=4, vocab_size=500, max_length=32)


@pytest.mark.parametrize("name", part_names(Init))
def test_what_every_init_does(name: str) -> None:
    part = find_part(Init, name)()
    assert decode(Init, encode(part)) == part
    first, second = (build_model(replace(SETTINGS, init=part), seed=5) for _ in range(2))
    for (key, mine), theirs in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.isfinite(mine).all()
        assert torch.equal(mine, theirs), "equal seeds, equal weights"
        if key.endswith("bias"):
            assert not mine.any()
        elif "norm" in key:
            assert bool((mine == 1).all())
    assert 0.001 < first.encoder.token_embeddings.std() < 0.5


def spreads(table: dict[str, object]) -> tuple[float, float, float]:
    model = build_model(replace(SETTINGS, init=decode(Init, table)))
    block = model.encoder.blocks[3]
    return tuple(w.std().item() for w in (model.encoder.token_embeddings, block.ffn.up.weight, block.ffn.down.weight))


def test_spreads() -> None:
    assert spreads({"is": "normal", "std": 0.04}) == pytest.approx((0.04, 0.04, 0.04), rel=0.05)
    assert spreads({"is": "depth_scaled", "std": 0.04}) == pytest.approx((0.04, 0.04, 0.01), rel=0.05)
    assert spreads({"is": "fan_in", "gain": 0.5}) == pytest.approx((0.02, 1 / 16, 1 / 32), rel=0.05)
    assert spreads({"is": "fan_in", "zero_out": True})[2] == 0
    cut = build_model(replace(SETTINGS, init=decode(Init, {"is": "normal", "std": 0.04, "cutoff": 2.0})))
    assert cut.encoder.token_embeddings.abs().max() <= 0.08
