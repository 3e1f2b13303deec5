"""Contract of the merge methods: the tests run over all parts in the folder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.parts import part_names
from encodery.base.settings import decode, encode
from encodery.merging import MergeMethod

State = dict[str, Tensor]


def state(seed: int, like: State | None = None, far: float = 0.1) -> State:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"weight": (40, 30), "bias": (40,), "scale": ()}
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    moved = {name: like[name] + far * value for name, value in drawn.items()} if like else drawn
    return {**moved, "steps": torch.tensor(7)}


def method(name: str, **table: Any) -> MergeMethod:
    return decode(MergeMethod, {"is": name, **table})


@pytest.mark.parametrize("name", part_names(MergeMethod))
def test_the_contract_of_a_merge_method(name: str) -> None:
    part = method(name)
    assert decode(MergeMethod, encode(part)) == part
    base = state(0)
    models = [state(1, base), state(2, base), state(3, base)]
    copies = [{k: v.clone() for k, v in one.items()} for one in (base, *models)]
    merged = part.merge(base, models)
    assert {k: (v.shape, v.dtype) for k, v in merged.items()} == {k: (v.shape, v.dtype) for k, v in base.items()}
    assert all(value.isfinite().all() for value in merged.values())
    again = part.merge(base, models)
    assert all(torch.equal(merged[k], again[k]) for k in merged), "the same seed gives the same result"
    assert all(torch.equal(a[k], b[k]) for a, b in zip((base, *models), copies, strict=True) for k in a)
    torch.testing.assert_close(part.merge(base, [base, base]), base)
    if not part.is_random:  # Otherwise the draws depend on the order of the models.
        torch.testing.assert_close(part.merge(base, models[::-1]), merged)
        last = method(name, weights=[0.0, 0.0, 1.0]).merge(base, models)
        torch.testing.assert_close(last, part.merge(base, models[2:]))


@pytest.mark.parametrize("name", part_names(MergeMethod))
def test_half_precision_keeps_its_dtype(name: str) -> None:
    base = {"w": torch.full((50,), 1.0, dtype=torch.bfloat16)}
    models = [{"w": torch.full((50,), 1.0 + k / 128, dtype=torch.bfloat16)} for k in (1, 2)]
    assert method(name).merge(base, models)["w"].dtype == torch.bfloat16


@pytest.mark.parametrize("name", part_names(MergeMethod))
def test_models_of_another_structure_are_refused(name: str) -> None:
    base = state(0)
    with pytest.raises(SettingsError, match="nothing to merge"):
        method(name).merge(base, [])
    with pytest.raises(SettingsError, match="2 models"):
        method(name, weights=[1.0]).merge(base, [base, base])
    with pytest.raises(SettingsError, match="model 2 has no 'bias'"):
        method(name).merge(base, [base, {k: v for k, v in base.items() if k != "bias"}])
    with pytest.raises(SettingsError, match="the base has no 'new'"):
        method(name).merge(base, [{**base, "new": base["bias"]}])
    with pytest.raises(SettingsError, match=r"'bias' has the shape \[3\]"):
        method(name).merge(base, [{**base, "bias": torch.zeros(3)}])
    with pytest.raises(SettingsError, match="the integers of 'steps' differ"):
        method(name).merge(base, [{**base, "steps": torch.tensor(8)}])
