"""Merging: models that grew out of one base, made into one model of the same size, without training.

Everything is done on the weights, tensor by tensor, in fp32. What learnt on top of the encoder (a task's head) is not
merged: heads of different tasks have nothing in common. Shapes: M models.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.parts import Part

StateDict = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class MergeMethod(Part):
    """A rule for the merged weights. `weights` (M,) says how much each model counts; empty: all alike.

    Integer tensors must be equal in all models and are the base's.
    """

    weights: tuple[float, ...] = ()

    @abc.abstractmethod
    def merge_tensor(
        self, name: str, base: Tensor, models: Tensor, weights: Tensor, generator: torch.Generator
    ) -> Tensor:
        """One merged tensor, of the shape of `base`, from `models` (M, *base.shape); `weights` (M,) as they are given,
        or ones."""

    def merge(self, base: StateDict, models: Sequence[StateDict], seed: int = 0) -> dict[str, Tensor]:
        """The merged state. `base` is what all models started from.

        Raises `SettingsError` for no models, other weights than models, and tensors that do not fit, naming the first.
        """
        if not models:
            raise SettingsError("There is nothing to merge: name at least one model beside the base.")
        if self.weights and len(self.weights) != len(models):
            raise SettingsError(f"weights = {self.weights}: there are {len(models)} models, give as many weights.")
        weights = torch.tensor(self.weights or [1.0] * len(models))
        generator = torch.Generator().manual_seed(seed)
        for number, state in enumerate(models, 1):
            _check(base, state, number)
        merged: dict[str, Tensor] = {}
        for name, tensor in base.items():
            if not tensor.is_floating_point():
                merged[name] = tensor.clone()
                continue
            stacked = torch.stack([state[name].float() for state in models])
            merged[name] = self.merge_tensor(name, tensor.float(), stacked, weights, generator).to(tensor.dtype)
        return merged


def broadcast_weights(weights: Tensor, like: Tensor) -> Tensor:
    """Weights (M,) as (M, 1, …, 1), to multiply tensors (M, …) of the same rank as `like`."""
    return weights.view(-1, *[1] * (like.dim() - 1))


def _check(base: StateDict, state: StateDict, number: int) -> None:
    other = sorted(set(base) ^ set(state))
    if other:
        whose = "the base" if other[0] in state else f"model {number}"
        raise SettingsError(f"Model {number} is not of the base's make: {whose} has no tensor '{other[0]}'.")
    for name, tensor in base.items():
        if state[name].shape != tensor.shape:
            raise SettingsError(
                f"Model {number} is not of the base's make: '{name}' has the shape {list(state[name].shape)}, in the "
                f"base {list(tensor.shape)}."
            )
        if not tensor.is_floating_point() and not torch.equal(tensor, state[name]):
            raise SettingsError(f"Model {number}: '{name}' holds other whole numbers than the base; they cannot merge.")
