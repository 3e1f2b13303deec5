"""A product of two narrow matrices beside a frozen weight: what LoRA and its like share.

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
    """Raises `SettingsError` for a rank or a dropout that cannot be."""
    if rank < 1:
        raise SettingsError(f"rank = {rank}: must be at least 1.")
    if not 0 <= dropout < 1:
        raise SettingsError(f"dropout = {dropout}: must lie in 0 <= dropout < 1.")


class LowRankFactors(nn.Module):
    """`a` (R, I), drawn as `nn.Linear` draws its weights, and `b` (o, R), zero, for `o` rows of a layer."""

    def __init__(self, inputs: int, outputs: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(rank, inputs))
        self.b = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5), generator=generator)


class LowRankLinear(AdaptedLinear):
    """W x + bias + scale · B A x, with a pair of its own for each target's rows."""

    def __init__(self, place: LinearSite, rank: int, scale: float, dropout: float, generator: torch.Generator) -> None:
        super().__init__(place.layer)
        self.rows, self.scale = place.outputs, scale
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()
        self.pairs = nn.ModuleDict(
            {
                name: LowRankFactors(self.in_features, end - begin, rank, generator)
                for name, (begin, end) in place.outputs.items()
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.apply_weight(x, self.bias)

    def apply_weight(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The changed weight times x, plus `bias` (T, O)."""
        y = F.linear(x, self.weight, bias)
        dropped = self.drop(x)
        for name, (begin, end) in self.rows.items():
            pair = self._pair(name)
            y[:, begin:end] += F.linear(F.linear(dropped, pair.a), pair.b) * self.scale
        return y

    def merged(self) -> tuple[Tensor, Tensor | None]:
        return self.weight + self.delta(), self.bias

    def delta(self) -> Tensor:
        """What is added to the weight (O, I)."""
        change = torch.zeros_like(self.weight)
        for name, (begin, end) in self.rows.items():
            pair = self._pair(name)
            change[begin:end] = pair.b @ pair.a * self.scale
        return change

    def _pair(self, name: str) -> LowRankFactors:
        pair = self.pairs[name]
        assert isinstance(pair, LowRankFactors)
        return pair
