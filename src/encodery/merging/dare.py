"""DARE: a random part of each model's differences from the base is dropped and the rest is rescaled. arXiv:2311.03099

Each difference is kept with probability 1 - drop_rate and divided by it, so that the mean is preserved; then all are
added to the base. Models of different tasks interfere less. Equals `task_arithmetic` at drop_rate = 0.
Shapes: M models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from encodery.base.settings import check_interval
from encodery.merging import MergeMethod
from encodery.merging._states import broadcast_weights


@dataclass(frozen=True, kw_only=True)
class Dare(MergeMethod):
    """`drop_rate` is the fraction of differences that is dropped; `scale` multiplies the sum of the rest.

    Use it when models of several tasks interfere under `task_arithmetic`:

        encodery model merge A B --base BASE --method dare drop_rate=0.9 --out MERGED
    """

    unsupported: ClassVar[frozenset[str]] = frozenset({"order_does_not_matter", "weight_zero_excludes_a_model"})
    drop_rate: float = 0.5
    scale: float = 0.4

    def __post_init__(self) -> None:
        check_interval(self, "0 <= x < 1", "drop_rate")

    def merge_tensor(
        self, name: str, base: Tensor, models: Tensor, weights: Tensor, generator: torch.Generator
    ) -> Tensor:
        deltas = models - base
        kept = torch.rand(deltas.shape, generator=generator) >= self.drop_rate
        return base + self.scale * (deltas * kept / (1 - self.drop_rate) * broadcast_weights(weights, deltas)).sum(0)
