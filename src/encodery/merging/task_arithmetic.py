"""Task arithmetic: what each model learnt beyond the base is added to the base. arXiv:2212.04089

base + scale · Σ weight · (model - base). A negative weight makes the base forget. With scale 1/M it equals `average`.
Shapes: M models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.merging import MergeMethod, broadcast_weights


@dataclass(frozen=True, kw_only=True)
class TaskArithmetic(MergeMethod):
    """`scale` multiplies the sum."""

    scale: float = 0.4

    def merge_tensor(
        self, name: str, base: Tensor, models: Tensor, weights: Tensor, generator: torch.Generator
    ) -> Tensor:
        learnt = models - base
        return base + self.scale * (learnt * broadcast_weights(weights, learnt)).sum(0)
