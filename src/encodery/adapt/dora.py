"""DoRA: length and direction of each row of a weight learn apart, the direction by a low-rank change. arXiv:2402.09353

Row o is m_o · (W + scale · B A)_o / |(W + scale · B A)_o|; m starts at the length of W's row, so that at first nothing
changes. As in the paper's section 4.3 the length is a constant to the gradient. Differs from `lora` only by m.
Shapes: O outputs, I inputs, R rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from encodery.adapt import Adaptation
from encodery.adapt._linear import LinearSite, Target, find_sites, merge_adapted, replace_linears
from encodery.adapt._low_rank import LowRankLinear, check_low_rank
from encodery.model.network import Model


@dataclass(frozen=True, kw_only=True)
class Dora(Adaptation):
    """As `lora`: `rank` is R, `alpha` over it multiplies the product, `dropout` falls on what goes into it."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[Target, ...] = ("query", "value")
    first_layer: int = 0

    def __post_init__(self) -> None:
        check_low_rank(self.rank, self.dropout)

    def apply(self, model: Model, generator: torch.Generator) -> None:
        found = list(find_sites(model, self.targets, self.first_layer))
        replace_linears(
            model, found, lambda place: _Dora(place, self.rank, self.alpha / self.rank, self.dropout, generator)
        )

    def merge(self, model: Model) -> None:
        merge_adapted(model, _Dora)


class _Dora(LowRankLinear):
    """Rows that are no target keep their length and direction."""

    def __init__(self, place: LinearSite, rank: int, scale: float, dropout: float, generator: torch.Generator) -> None:
        super().__init__(place, rank, scale, dropout, generator)
        lengths = place.layer.weight.detach().norm(dim=1)
        self.lengths = nn.ParameterDict({name: lengths[a:b].clone() for name, (a, b) in place.outputs.items()})

    def forward(self, x: Tensor) -> Tensor:
        y = self.apply_weight(x, None) * self._factors()
        return y if self.bias is None else y + self.bias

    def merged(self) -> tuple[Tensor, Tensor | None]:
        return (self.weight + self.delta()) * self._factors()[:, None], self.bias

    def _factors(self) -> Tensor:
        """(O,) what each row of the changed weight is multiplied by: 1 where it is no target's."""
        with torch.no_grad():
            now = (self.weight + self.delta()).norm(dim=1).clamp_min(1e-12)
        factors = torch.ones_like(now)
        for name, (begin, end) in self.rows.items():
            factors[begin:end] = self.lengths[name] / now[begin:end]
        return factors
