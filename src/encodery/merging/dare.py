"""DARE: a random part of what each model learnt is dropped, the rest made larger for it, then all is added.
arXiv:2311.03099

Each difference from the base stays with probability 1 - drop and is divided by it, so that its mean is kept; models
that learnt different things then hinder each other less. Equals `task_arithmetic` at drop = 0.
Shapes: M models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.merging import MergeMethod, broadcast_weights


@dataclass(frozen=True, kw_only=True)
class Dare(MergeMethod):
    """`drop` is the share of differences dropped; `scale` multiplies their sum."""

    drop_rate: float = 0.5
    scale: float = 0.4

    def __post_init__(self) -> None:
        if not 0 <= self.drop_rate < 1:
            raise SettingsError(f"drop = {self.drop_rate}: is a share, 0 <= drop < 1.")

    def merge_tensor(
        self, name: str, base: Tensor, models: Tensor, weights: Tensor, generator: torch.Generator
    ) -> Tensor:
        learnt = models - base
        kept = torch.rand(learnt.shape, generator=generator) >= self.drop_rate
        return base + self.scale * (learnt * kept / (1 - self.drop_rate) * broadcast_weights(weights, learnt)).sum(0)
