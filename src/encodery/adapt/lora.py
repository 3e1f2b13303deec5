"""LoRA: a product of two narrow matrices is learnt and added to a frozen weight, W + (alpha / R) · B A.

arXiv:2106.09685. B is initialised as zero, so that at first nothing changes; merging adds the product to the weight,
exactly. `rank_stabilised` divides by the root of R (arXiv:2312.03732), so that large ranks learn at the same learning
rate as small ones. Shapes: T tokens, O outputs, I inputs, R rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.adapt import Adaptation
from encodery.adapt._linear import Target, find_sites, merge_adapted, replace_linears
from encodery.adapt._low_rank import LowRankLinear, check_low_rank
from encodery.model.network import Model


@dataclass(frozen=True, kw_only=True)
class Lora(Adaptation):
    """Use it to fine-tune with little memory, and to keep many tasks of one model. `rank` is R; `alpha` over the rank
    (or over its root, if `rank_stabilised`) multiplies the product; `dropout` is applied to the product's input;
    `targets` are query, key, value, out, up, down; layers before `first_layer` are not adapted.

        encodery finetune classify rows.csv --model run --out tuned adapt=lora adapt.rank=16
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[Target, ...] = ("query", "value")
    first_layer: int = 0
    rank_stabilised: bool = False

    def __post_init__(self) -> None:
        check_low_rank(self.rank, self.dropout)

    def apply(self, model: Model, generator: torch.Generator) -> None:
        sites = list(find_sites(model, self.targets, self.first_layer))
        scale = self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)
        replace_linears(model, sites, lambda site: _LoraLinear(site, self.rank, scale, self.dropout, generator))

    def merge(self, model: Model) -> None:
        merge_adapted(model, _LoraLinear)


class _LoraLinear(LowRankLinear):
    def forward(self, x: Tensor) -> Tensor:
        return self.apply_weight(x, self.bias)

    def merged(self) -> tuple[Tensor, Tensor | None]:
        return self.weight + self.delta(), self.bias
