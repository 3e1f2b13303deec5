"""Masking: which weights take part is learnt, their values stay as they are. arXiv:2004.12406

Each weight of the targets has a real number; where it is above the threshold the weight counts, elsewhere it is zero.
The gradient passes the threshold as if it were not there. Merging leaves ordinary weights with zeros, so what must be
kept of a task is one bit a weight. As much learns as there are weights: memory in training is not saved.
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
from encodery.base.errors import SettingsError
from encodery.model.network import Model


@dataclass(frozen=True, kw_only=True)
class BinaryMasks(Adaptation):
    """`sparsity` is the share of weights that are zero at first; the numbers are drawn evenly from a range of `width`
    around the threshold, which must be of the size of what the learning rate moves."""

    parameter_efficient: ClassVar[bool] = False

    sparsity: float = 0.05
    init_range: float = 0.02
    targets: tuple[Target, ...] = ("query", "key", "value", "out", "up", "down")
    first_layer: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise SettingsError(f"sparsity = {self.sparsity}: is a share, 0 <= sparsity < 1.")
        if not self.init_range > 0:
            raise SettingsError(f"width = {self.init_range}: must be more than 0.")

    def apply(self, model: Model, generator: torch.Generator) -> None:
        found = list(find_sites(model, self.targets, self.first_layer))
        low, high = -self.sparsity * self.init_range, (1 - self.sparsity) * self.init_range
        replace_linears(model, found, lambda place: _Masked(place, low, high, generator))

    def merge(self, model: Model) -> None:
        merge_adapted(model, _Masked)


class _Masked(AdaptedLinear):
    """The threshold is 0."""

    def __init__(self, place: LinearSite, low: float, high: float, generator: torch.Generator) -> None:
        super().__init__(place.layer)
        self.rows = place.outputs
        sizes = {target: (end - begin, self.in_features) for target, (begin, end) in place.outputs.items()}
        self.numbers = nn.ParameterDict(
            {target: torch.empty(size).uniform_(low, high, generator=generator) for target, size in sizes.items()}
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self._mask(), self.bias)

    def merged(self) -> tuple[Tensor, Tensor | None]:
        return self.weight * self._mask(), self.bias

    def _mask(self) -> Tensor:
        """(O, I) of zeros and ones."""
        mask = torch.ones_like(self.weight)
        for target, (begin, end) in self.rows.items():
            numbers = self.numbers[target]
            hard = (numbers > 0).to(numbers.dtype)
            # The sum is `hard` to the last bit, as numbers - numbers is zero; its gradient is that of `numbers`.
            mask[begin:end] = hard + (numbers - numbers.detach())
        return mask
