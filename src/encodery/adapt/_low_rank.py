"""A product of two narrow matrices added to a frozen weight: what LoRA and DoRA share.

Shapes: T tokens, O outputs, I inputs, R rank.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encodery.adapt._linear import AdaptedLinear, LinearSite
from encodery.base.errors import SettingsError


def check_low_rank(rank: int, dropout: float) -> None:
    """Raise `SettingsError` for a rank or a dropout out of range."""
    if rank < 1:
        raise SettingsError(f"rank = {rank}: must be at least 1.")
    if not 0 <= dropout < 1:
        raise SettingsError(f"dropout = {dropout}: must satisfy 0 <= dropout < 1.")


class LowRankFactors(nn.Module):
    """`a` (R, I), initialised as `nn.Linear` initialises its weight, and `b` (o, R), zero, for `o` outputs."""

    def __init__(self, inputs: int, outputs: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(rank, inputs))
        self.b = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5), generator=generator)


class LowRankLinear(AdaptedLinear):
    """A linear layer with the weight W + scale · B A; abstract. Each target's outputs have their own factors."""

    def __init__(self, site: LinearSite, rank: int, scale: float, dropout: float, generator: torch.Generator) -> None:
        super().__init__(site.layer)
        self.outputs, self.scale = site.outputs, scale
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()
        self.factors = nn.ModuleDict(
            {
                name: LowRankFactors(self.in_features, end - begin, rank, generator)
                for name, (begin, end) in site.outputs.items()
            }
        )

    def apply_weight(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return x times the changed weight, plus `bias`: (T, O)."""
        y = F.linear(x, self.weight, bias)
        dropped = self.drop(x)
        for name, (begin, end) in self.outputs.items():
            factors = self._factors_of(name)
            y[:, begin:end] += F.linear(F.linear(dropped, factors.a), factors.b) * self.scale
        return y

    def delta(self) -> Tensor:
        """Return what is added to the weight (O, I)."""
        delta = torch.zeros_like(self.weight)
        for name, (begin, end) in self.outputs.items():
            factors = self._factors_of(name)
            delta[begin:end] = factors.b @ factors.a * self.scale
        return delta

    def _factors_of(self, target: str) -> LowRankFactors:
        factors = self.factors[target]
        assert isinstance(factors, LowRankFactors)
        return factors
