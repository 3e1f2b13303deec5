"""Task arithmetic: the differences of each model from the base are added to the base. arXiv:2212.04089

base + scale · Σ weight · (model - base). A negative weight removes a task. With scale 1/M it equals `average`.
Shapes: M models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.merging import MergeMethod
from encodery.merging._states import broadcast_weights


@dataclass(frozen=True, kw_only=True)
class TaskArithmetic(MergeMethod):
    """`scale` multiplies the sum of the differences.

    Use it to combine models of different tasks, or to remove a task with a negative weight:

        encodery model merge A B --base BASE --method task_arithmetic scale=0.5 --out MERGED
    """

    scale: float = 0.4

    def merge_tensor(
        self, name: str, base: Tensor, models: Tensor, weights: Tensor, generator: torch.Generator
    ) -> Tensor:
        deltas = models - base
        return base + self.scale * (deltas * broadcast_weights(weights, deltas)).sum(0)
