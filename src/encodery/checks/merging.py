"""Checks of merge methods, on random state dicts of two tensors, a scalar and a count."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.settings import decode, encode
from encodery.merging import MergeMethod

SHAPES = {"weight": (40, 30), "bias": (40,), "scale": ()}


def example(seed: int, base: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return a random state dict, or one that differs from `base` as after a short fine-tuning."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    state = {name: base[name] + 0.1 * value for name, value in drawn.items()} if base else drawn
    return {**state, "steps": torch.tensor(7)}


def examples() -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Return a base and three models."""
    base = example(0)
    return base, [example(seed, base) for seed in (1, 2, 3)]


def check_settings_round_trip(part: MergeMethod) -> None:
    """The part is what its settings decode to."""
    assert decode(MergeMethod, encode(part)) == part


def check_structure_is_kept(part: MergeMethod) -> None:
    """The merged state has the names, shapes and dtypes of the base, and finite values; half precision is kept."""
    base, models = examples()
    for dtype in (torch.float32, torch.bfloat16):
        states = [
            {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
            for state in (base, *models)
        ]
        merged = part.merge(states[0], states[1:])
        assert {k: (v.shape, v.dtype) for k, v in merged.items()} == {
            k: (v.shape, v.dtype) for k, v in states[0].items()
        }
        assert all(value.isfinite().all() for value in merged.values())


def check_inputs_are_not_modified(part: MergeMethod) -> None:
    """`merge` does not write to its arguments."""
    base, models = examples()
    part.merge(base, models)
    again = examples()
    assert all(torch.equal(base[name], again[0][name]) for name in base)
    assert all(torch.equal(a[name], b[name]) for a, b in zip(models, again[1], strict=True) for name in base)


def check_a_seed_determines_the_result(part: MergeMethod) -> None:
    """The same seed gives the same result."""
    base, models = examples()
    first, second = part.merge(base, models, seed=3), part.merge(base, models, seed=3)
    assert all(torch.equal(first[name], second[name]) for name in base)


def check_unchanged_models_give_the_base(part: MergeMethod) -> None:
    """Models that equal the base merge into the base."""
    base, _ = examples()
    torch.testing.assert_close(part.merge(base, [base, base]), base)


def check_order_does_not_matter(part: MergeMethod) -> None:
    """The result does not depend on the order of the models."""
    base, models = examples()
    torch.testing.assert_close(part.merge(base, models[::-1]), part.merge(base, models))


def check_weight_zero_excludes_a_model(part: MergeMethod) -> None:
    """Models of weight 0 have no effect."""
    base, models = examples()
    weighted = dataclasses.replace(part, weights=(0.0, 0.0, 1.0))
    torch.testing.assert_close(weighted.merge(base, models), part.merge(base, models[2:]))


def check_other_structures_are_refused(part: MergeMethod) -> None:
    """Missing and additional tensors, other shapes, other integers and wrong numbers of weights are reported."""
    base, _ = examples()
    without_bias = {name: value for name, value in base.items() if name != "bias"}
    two_weights = dataclasses.replace(part, weights=(1.0, 1.0))
    for method, models, message in (
        (part, [], "nothing to merge"),
        (two_weights, [base], "1 models"),
        (part, [base, without_bias], "model 2 has no 'bias'"),
        (part, [{**base, "new": base["bias"]}], "the base has no 'new'"),
        (part, [{**base, "bias": torch.zeros(3)}], "'bias' has the shape [3]"),
        (part, [{**base, "steps": torch.tensor(8)}], "the integers of 'steps' differ"),
    ):
        assert message in refusal(method, base, models)


def refusal(part: MergeMethod, base: dict[str, Tensor], models: list[dict[str, Tensor]]) -> str:
    """Return the message with which models are refused, or an empty string if they are merged."""
    try:
        part.merge(base, models)
    except SettingsError as error:
        return str(error)
    return ""
