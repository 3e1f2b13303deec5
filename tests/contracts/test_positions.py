"""Contract of positions: every check of `encodery.checks.positions` on every part in the folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from encodery import checks
from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode
from encodery.checks import positions
from encodery.checks.positions import SHAPE
from encodery.model.positions import Positions
from encodery.model.reach import Reach
from encodery.model.shape import Batch

SETTINGS = {"sum": {"of": ["learned", "relative_bias"]}}
pytestmark = pytest.mark.usefixtures("_poisoned")


@pytest.mark.parametrize("check", checks.functions(positions), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(Positions))
def test_contract(name: str, check: checks.Check, run_check: Callable[..., None]) -> None:
    run_check(check, decode(Positions, {"is": name, **SETTINGS.get(name, {})}))


def test_which_positions_have_offset_patterns() -> None:
    without = {name for name in part_names(Positions) if "offset_patterns" in find_part(Positions, name).unsupported}
    assert without == {"alibi", "disentangled", "none", "relative_bias", "sinusoidal"}


def test_rotary_scores_depend_on_distance_only() -> None:
    module = decode(Positions, {"is": "rotary", "theta": 100.0, "local_theta": 10.0}).build(SHAPE)
    layout = Batch.from_sequences([[0] * 12]).layout
    qkv = torch.randn(1, 36).double().repeat(12, 1)
    for shape in (SHAPE, SHAPE.for_layer(0, Reach(3, 3))):
        query, key, _ = module.rotate(qkv.clone(), layout, shape).view(12, 3, 3, 4).unbind(1)
        scores = torch.einsum("ind,jnd->nij", query, key)
        for distance in range(-11, 12):
            diagonal = scores.diagonal(distance, 1, 2)
            torch.testing.assert_close(diagonal, diagonal[:, :1].expand_as(diagonal), rtol=1e-5, atol=1e-5)
    local, whole = (module.rotate(qkv.clone(), layout, shape) for shape in (SHAPE.for_layer(0, Reach(3, 3)), SHAPE))
    assert not torch.allclose(local, whole)


def test_rotary_turns_gradients_back() -> None:
    module = decode(Positions, "rotary").build(SHAPE)
    layout = Batch.from_sequences([[0] * 3, [0] * 2]).layout
    leaf = torch.randn(5, 36, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda x: module.rotate(x.clone(), layout, SHAPE), (leaf,))


def test_alibi_slopes() -> None:
    layout = Batch.from_sequences([[0] * 3]).layout
    alibi = decode(Positions, "alibi").build(SHAPE)
    eight = alibi.bias(layout, replace(SHAPE, heads=8))
    torch.testing.assert_close(eight[:, 3], -torch.tensor([2.0**-i for i in range(1, 9)]))
    assert torch.equal(eight, eight.flip(1))
    twelve = alibi.bias(layout, replace(SHAPE, heads=12))
    torch.testing.assert_close(twelve[8:, 3], -torch.tensor([2.0 ** -(i + 0.5) for i in range(4)]))
