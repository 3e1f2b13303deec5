"""Masking: which weights take part is learnt; their values stay as they are. arXiv:2004.12406

Each weight of the targets has a real-valued score; if it is above the threshold the weight is used, otherwise it is
zero. The gradient passes the threshold as if it were not there (straight-through). Merging leaves ordinary weights with
zeros, so a task can be stored with one bit per weight. There are as many scores as weights: training saves no memory.
Shapes: O outputs, I inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encodery.adapt import Adaptation
from encodery.adapt._linear import AdaptedLinear, LinearSite, Target, find_sites, merge_adapted, replace_linears
from encodery.base.settings import check_interval
from encodery.model.network import Model


@dataclass(frozen=True, kw_only=True)
class BinaryMasks(Adaptation):
    """Use it to store many tasks of one model with a bit per weight each. `sparsity`: the fraction of weights that are
    zero at first. Scores are drawn uniformly from a range of size `init_range` around the threshold, which must be of
    the order of what training at your learning rate changes.

        encodery finetune classify rows.csv --model run --out tuned adapt=binary_masks
    """

    parameter_efficient: ClassVar[bool] = False

    sparsity: float = 0.05
    init_range: float = 0.02
    targets: tuple[Target, ...] = ("query", "key", "value", "out", "up", "down")
    first_layer: int = 0

    def __post_init__(self) -> None:
        check_interval(self, "0 <= x < 1", "sparsity")
        check_interval(self, "0 < x", "init_range")

    def apply(self, model: Model, generator: torch.Generator) -> None:
        sites = list(find_sites(model, self.targets, self.first_layer))
        low, high = -self.sparsity * self.init_range, (1 - self.sparsity) * self.init_range
        replace_linears(model, sites, lambda site: _MaskedLinear(site, low, high, generator))

    def merge(self, model: Model) -> None:
        merge_adapted(model, _MaskedLinear)


class _MaskedLinear(AdaptedLinear):
    """The threshold is 0."""

    def __init__(self, site: LinearSite, low: float, high: float, generator: torch.Generator) -> None:
        super().__init__(site.layer)
        self.outputs = site.outputs
        sizes = {target: (end - begin, self.in_features) for target, (begin, end) in site.outputs.items()}
        self.scores = nn.ParameterDict(
            {target: torch.empty(size).uniform_(low, high, generator=generator) for target, size in sizes.items()}
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self._mask(), self.bias)

    def merged(self) -> tuple[Tensor, Tensor | None]:
        return self.weight * self._mask(), self.bias

    def _mask(self) -> Tensor:
        """(O, I) of zeros and ones."""
        mask = torch.ones_like(self.weight)
        for target, (begin, end) in self.outputs.items():
            scores = self.scores[target]
            hard = (scores > 0).to(scores.dtype)
            # The sum equals `hard` to the last bit, since scores - scores is zero; its gradient is that of `scores`.
            mask[begin:end] = hard + (scores - scores.detach())
        return mask
