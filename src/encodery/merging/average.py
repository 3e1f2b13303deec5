"""Weighted mean of models (a model soup). arXiv:2203.05482

With `base_weight` the base takes part with that weight, which preserves its general abilities (arXiv:2311.13534).
Use it for models that were fine-tuned on the same task. Shapes: M models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.merging import MergeMethod
from encodery.merging._states import broadcast_weights


@dataclass(frozen=True, kw_only=True)
class Average(MergeMethod):
    """The `weights` of the models and the `base_weight` of the base are divided by their sum.

    Use it when the models were fine-tuned on one task with different settings or seeds:

        encodery model merge A B --base BASE --method average base_weight=1.0 --out MERGED
    """

    base_weight: float = 0.0

    def __post_init__(self) -> None:
        total = sum(self.weights or (1.0,)) + self.base_weight
        if min(*self.weights, self.base_weight, 0.0) < 0 or not total > 0:
            raise SettingsError(
                f"weights = {self.weights}, base_weight = {self.base_weight}: none may be below 0, not all 0."
            )

    def merge_tensor(
        self, name: str, base: Tensor, models: Tensor, weights: Tensor, generator: torch.Generator
    ) -> Tensor:
        total = weights.sum() + self.base_weight
        return (models * broadcast_weights(weights / total, models)).sum(0) + base * (self.base_weight / total)
