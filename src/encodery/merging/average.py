"""The weighted mean of models: a soup. arXiv:2203.05482

With `base` the base itself takes part with that weight, which keeps what it could do (arXiv:2311.13534).
Shapes: M models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.merging import MergeMethod, broadcast_weights


@dataclass(frozen=True, kw_only=True)
class Average(MergeMethod):
    """`weights` of the models and `base` of the base are divided by their sum."""

    base_weight: float = 0.0

    def __post_init__(self) -> None:
        if min(*self.weights, self.base_weight, 0.0) < 0 or not sum(self.weights or (1.0,)) + self.base_weight > 0:
            raise SettingsError(f"weights = {self.weights}, base = {self.base_weight}: none below 0, and not all 0.")

    def merge_tensor(
        self, name: str, base: Tensor, models: Tensor, weights: Tensor, generator: torch.Generator
    ) -> Tensor:
        total = weights.sum() + self.base_weight
        return (models * broadcast_weights(weights / total, models)).sum(0) + base * (self.base_weight / total)
