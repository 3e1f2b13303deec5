"""DoRA: length and direction of each row of a weight learn separately, the direction by a low-rank change.

arXiv:2402.09353. Row o is m_o · (W + scale · B A)_o / |(W + scale · B A)_o|; m is initialised as the length of W's row,
so that at first nothing changes. As in section 4.3 of the paper, the norm is a constant to the gradient. Differs from
`lora` only by m. Shapes: O outputs, I inputs, R rank.
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
    """Use it in place of `lora` if a low rank falls short of full fine-tuning. As there, `rank` is R, `alpha` over it
    multiplies the product, `dropout` is applied to the product's input.

        encodery finetune classify rows.csv --model run --out tuned adapt=dora adapt.rank=8
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[Target, ...] = ("query", "value")
    first_layer: int = 0

    def __post_init__(self) -> None:
        check_low_rank(self.rank, self.dropout)

    def apply(self, model: Model, generator: torch.Generator) -> None:
        sites = list(find_sites(model, self.targets, self.first_layer))
        scale = self.alpha / self.rank
        replace_linears(model, sites, lambda site: _DoraLinear(site, self.rank, scale, self.dropout, generator))

    def merge(self, model: Model) -> None:
        merge_adapted(model, _DoraLinear)


class _DoraLinear(LowRankLinear):
    """Outputs that belong to no target keep their length and direction."""

    def __init__(self, site: LinearSite, rank: int, scale: float, dropout: float, generator: torch.Generator) -> None:
        super().__init__(site, rank, scale, dropout, generator)
        lengths = site.layer.weight.detach().norm(dim=1)
        self.lengths = nn.ParameterDict({name: lengths[a:b].clone() for name, (a, b) in site.outputs.items()})

    def forward(self, x: Tensor) -> Tensor:
        y = self.apply_weight(x, None) * self._scales()
        return y if self.bias is None else y + self.bias

    def merged(self) -> tuple[Tensor, Tensor | None]:
        return (self.weight + self.delta()) * self._scales()[:, None], self.bias

    def _scales(self) -> Tensor:
        """(O,) what each row of the changed weight is multiplied by: 1 for outputs that belong to no target."""
        with torch.no_grad():
            norms = (self.weight + self.delta()).norm(dim=1).clamp_min(1e-12)
        scales = torch.ones_like(norms)
        for name, (begin, end) in self.outputs.items():
            scales[begin:end] = self.lengths[name] / norms[begin:end]
        return scales
