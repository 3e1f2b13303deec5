"""LoRA: a product of two narrow matrices is learnt beside a frozen weight, W + (alpha / R) · B A. arXiv:2106.09685

B starts at zero, so that at first nothing changes; merging adds the product to the weight, exactly. `stabilised`
divides by the root of R (arXiv:2312.03732), which lets large ranks learn at the same rate as small ones.
Shapes: T tokens, O outputs, I inputs, R rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from encodery.adapt import Adaptation
from encodery.adapt._linear import Target, find_sites, merge_adapted, replace_linears
from encodery.adapt._low_rank import LowRankLinear, check_low_rank
from encodery.model.network import Model


@dataclass(frozen=True, kw_only=True)
class Lora(Adaptation):
    """`rank` is R; `alpha` over the rank (or, `stabilised`, over its root) multiplies the product; `dropout` falls on
    what goes into it; `targets` are query, key, value, out, up, down; layers before `first` are left alone."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[Target, ...] = ("query", "value")
    first_layer: int = 0
    rank_stabilised: bool = False

    def __post_init__(self) -> None:
        check_low_rank(self.rank, self.dropout)

    def apply(self, model: Model, generator: torch.Generator) -> None:
        found = list(find_sites(model, self.targets, self.first_layer))
        scale = self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)
        replace_linears(model, found, lambda place: LowRankLinear(place, self.rank, scale, self.dropout, generator))

    def merge(self, model: Model) -> None:
        merge_adapted(model, LowRankLinear)
