"""Contract of initialisations: every check of `encodery.checks.init` on every part in the folder; their spreads."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from encodery import checks
from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode
from encodery.checks import init
from encodery.model.init import Init

pytestmark = pytest.mark.usefixtures("_poisoned")


@pytest.mark.parametrize("check", checks.functions(init), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(Init))
def test_contract(name: str, check: checks.Check, run_check: Callable[..., None]) -> None:
    run_check(check, find_part(Init, name)())


def spreads(table: dict[str, object]) -> tuple[float, float, float]:
    model = init.example(decode(Init, table))
    block = model.encoder.blocks[3]
    return tuple(w.std().item() for w in (model.encoder.token_embeddings, block.ffn.up.weight, block.ffn.down.weight))


def test_spreads() -> None:
    assert spreads({"is": "normal", "std": 0.04}) == pytest.approx((0.04, 0.04, 0.04), rel=0.05)
    assert spreads({"is": "depth_scaled", "std": 0.04}) == pytest.approx((0.04, 0.04, 0.01), rel=0.05)
    assert spreads({"is": "fan_in", "gain": 0.5}) == pytest.approx((0.02, 1 / 16, 1 / 32), rel=0.05)
    assert spreads({"is": "fan_in", "zero_out": True})[2] == 0
    truncated = init.example(decode(Init, {"is": "normal", "std": 0.04, "cutoff": 2.0}))
    assert truncated.encoder.token_embeddings.abs().max() <= 0.08
