"""Check the state dicts of the models to merge, and broadcast their weights. Shapes: M models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from encodery.base.errors import SettingsError


def broadcast_weights(weights: Tensor, like: Tensor) -> Tensor:
    """Return weights (M,) as (M, 1, …, 1), to multiply tensors (M, …) of the same rank as `like`."""
    return weights.view(-1, *[1] * (like.dim() - 1))


def check_states(
    base: Mapping[str, Tensor], models: Sequence[Mapping[str, Tensor]], weights: tuple[float, ...]
) -> None:
    """Check that models can be merged. Raises `SettingsError` naming the first tensor that does not match the base."""
    if not models:
        raise SettingsError("There is nothing to merge: name at least one model besides the base.")
    if weights and len(weights) != len(models):
        raise SettingsError(f"weights = {weights}: there are {len(models)} models; give as many weights.")
    for number, state in enumerate(models, 1):
        _check_state(base, state, number)


def _check_state(base: Mapping[str, Tensor], state: Mapping[str, Tensor], number: int) -> None:
    unmatched = sorted(set(base) ^ set(state))
    if unmatched:
        lacking = "the base" if unmatched[0] in state else f"model {number}"
        raise SettingsError(f"Model {number} and the base differ in structure: {lacking} has no '{unmatched[0]}'.")
    for name, tensor in base.items():
        if state[name].shape != tensor.shape:
            raise SettingsError(
                f"Model {number} and the base differ in structure: '{name}' has the shape {list(state[name].shape)}, "
                f"in the base {list(tensor.shape)}."
            )
        if not tensor.is_floating_point() and not torch.equal(tensor, state[name]):
            raise SettingsError(f"Model {number} cannot be merged: the integers of '{name}' differ from the base.")
