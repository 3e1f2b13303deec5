"""TIES: small differences are trimmed, a sign is elected for each weight, and models that disagree are left out.

arXiv:2306.01708. In each tensor of each model, the fraction `density` of the largest differences from the base is kept.
The sign of each weight is that of the sum over models. The merged difference is the mean over the models whose
difference has this sign. Shapes: M models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.base.settings import check_interval
from encodery.merging import MergeMethod
from encodery.merging._states import broadcast_weights


@dataclass(frozen=True, kw_only=True)
class Ties(MergeMethod):
    """`density` is the fraction of differences that is kept; `scale` multiplies the merged difference.

    Use it when models of several tasks change the same weights in opposite directions:

        encodery model merge A B --base BASE --method ties density=0.2 --out MERGED
    """

    density: float = 0.2
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_interval(self, "0 < x <= 1", "density")

    def merge_tensor(
        self, name: str, base: Tensor, models: Tensor, weights: Tensor, generator: torch.Generator
    ) -> Tensor:
        deltas = torch.stack([self._trim(delta) for delta in models - base]) * broadcast_weights(weights, models)
        elected = deltas.sum(0).sign()
        agrees = (deltas.sign() == elected) & (deltas != 0)
        mass = (agrees * broadcast_weights(weights.abs(), models)).sum(0)
        return base + self.scale * (deltas * agrees).sum(0) / mass.clamp_min(torch.finfo(torch.float32).tiny)

    def _trim(self, delta: Tensor) -> Tensor:
        """Keep the fraction `density` of the largest values of a tensor, at least one, and set the others to zero."""
        if not delta.numel():
            return delta
        count = max(round(self.density * delta.numel()), 1)
        threshold = delta.abs().flatten().kthvalue(delta.numel() - count + 1).values
        return torch.where(delta.abs() >= threshold, delta, 0.0)
