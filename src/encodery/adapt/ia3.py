"""(IA)³: keys, values and what is inside the feed-forward are scaled by learnt vectors. arXiv:2205.05638

All else stands still. The vectors start at one. They fold into the weights exactly: those of keys and values into the
rows that make them, those of the feed-forward into the columns of `down`.
Shapes: O outputs, I inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encodery.adapt import Adaptation
from encodery.adapt._linear import AdaptedLinear, LinearSite, Target, find_sites, merge_adapted, replace_linears
from encodery.model.network import Model


@dataclass(frozen=True, kw_only=True)
class IA3(Adaptation):
    """`targets`: of down the inputs are scaled, of all others the outputs. Layers before `first` are left alone."""

    targets: tuple[Target, ...] = ("key", "value", "down")
    first_layer: int = 0

    def apply(self, model: Model, generator: torch.Generator) -> None:
        replace_linears(model, list(find_sites(model, self.targets, self.first_layer)), _Scaled)

    def merge(self, model: Model) -> None:
        merge_adapted(model, _Scaled)


class _Scaled(AdaptedLinear):
    def __init__(self, place: LinearSite) -> None:
        super().__init__(place.layer)
        self.rows = place.outputs
        sizes = {t: self.in_features if t == "down" else b - a for t, (a, b) in place.outputs.items()}
        self.scales = nn.ParameterDict({target: torch.ones(size) for target, size in sizes.items()})

    def forward(self, x: Tensor) -> Tensor:
        if "down" in self.rows:
            return F.linear(x * self.scales["down"], self.weight, self.bias)
        return F.linear(x, self.weight, self.bias) * self._rows()

    def merged(self) -> tuple[Tensor, Tensor | None]:
        if "down" in self.rows:
            return self.weight * self.scales["down"], self.bias
        rows = self._rows()
        return self.weight * rows[:, None], None if self.bias is None else self.bias * rows

    def _rows(self) -> Tensor:
        """(O,) what each output is multiplied by."""
        rows = self.weight.new_ones(self.out_features)
        for target, (begin, end) in self.rows.items():
            rows[begin:end] = self.scales[target]
        return rows
