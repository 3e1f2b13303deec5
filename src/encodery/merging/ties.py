"""TIES: small differences are trimmed, each weight takes the side with more mass, and who disagrees is left out.
arXiv:2306.01708

Of each model's differences from the base, tensor by tensor, the share `keep` that is largest stays; the sign of each
weight is that of their sum; the mean is over the models whose difference has that sign.
Shapes: M models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.merging import MergeMethod, broadcast_weights


@dataclass(frozen=True, kw_only=True)
class Ties(MergeMethod):
    """`keep` is the share of differences that stays; `scale` multiplies the merged difference."""

    density: float = 0.2
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise SettingsError(f"keep = {self.density}: is a share, 0 < keep <= 1.")

    def merge_tensor(
        self, name: str, base: Tensor, models: Tensor, weights: Tensor, generator: torch.Generator
    ) -> Tensor:
        learnt = torch.stack([self._trimmed(one) for one in models - base]) * broadcast_weights(weights, models)
        side = learnt.sum(0).sign()
        agrees = (learnt.sign() == side) & (learnt != 0)
        mass = (agrees * broadcast_weights(weights.abs(), models)).sum(0)
        return base + self.scale * (learnt * agrees).sum(0) / mass.clamp_min(torch.finfo(torch.float32).tiny)

    def _trimmed(self, learnt: Tensor) -> Tensor:
        """The largest `keep` of a tensor, the rest zero; never none."""
        if not learnt.numel():
            return learnt
        count = max(round(self.density * learnt.numel()), 1)
        least = learnt.abs().flatten().kthvalue(learnt.numel() - count + 1).values
        return torch.where(learnt.abs() >= least, learnt, 0.0)
