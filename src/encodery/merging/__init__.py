"""Model merging: several models fine-tuned from one base become one model of the same size, without training.

Weights are merged tensor by tensor, in fp32. Only the encoder is merged: the head of a task has no counterpart in a
model of another task. Shapes: M models.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.base.parts import Part
from encodery.merging._states import check_states

StateDict = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class MergeMethod(Part):
    """A method that computes merged weights. `weights` (M,): the weight of each model; empty for equal weights.

    Integer tensors must be equal in all models and are copied from the base.
    """

    weights: tuple[float, ...] = ()

    @abc.abstractmethod
    def merge_tensor(
        self, name: str, base: Tensor, models: Tensor, weights: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return one merged tensor, of the shape of `base`.

        Args:
            models: the tensors of the models (M, *base.shape).
            weights: the weights (M,), or ones if none are set.
        """

    def merge(self, base: StateDict, models: Sequence[StateDict], seed: int = 0) -> dict[str, Tensor]:
        """Return the merged state dict. `base` is the model from which all models were trained.

        Raises `SettingsError` if there are no models, if there are not as many weights as models, and if tensors do
        not match, naming the first.
        """
        check_states(base, models, self.weights)
        weights = torch.tensor(self.weights or [1.0] * len(models))
        generator = torch.Generator().manual_seed(seed)
        merged: dict[str, Tensor] = {}
        for name, tensor in base.items():
            if not tensor.is_floating_point():
                merged[name] = tensor.clone()
                continue
            stacked = torch.stack([state[name].float() for state in models])
            merged[name] = self.merge_tensor(name, tensor.float(), stacked, weights, generator).to(tensor.dtype)
        return merged
