"""(IA)³: keys, values and the inner activations of the feed-forward are scaled by learnt vectors. arXiv:2205.05638

Everything else is frozen. The vectors are initialised as ones. They merge into the weights exactly: those of keys and
values into the rows that compute them, those of the feed-forward into the columns of `down`.
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
    """Use it to learn from few examples with very few weights. `targets`: of down the inputs are scaled, of the others
    the outputs. Layers before `first_layer` are not adapted.

        encodery finetune classify rows.csv --model run --out tuned adapt=ia3
    """

    targets: tuple[Target, ...] = ("key", "value", "down")
    first_layer: int = 0

    def apply(self, model: Model, generator: torch.Generator) -> None:
        replace_linears(model, list(find_sites(model, self.targets, self.first_layer)), _ScaledLinear)

    def merge(self, model: Model) -> None:
        merge_adapted(model, _ScaledLinear)


class _ScaledLinear(AdaptedLinear):
    def __init__(self, site: LinearSite) -> None:
        super().__init__(site.layer)
        self.outputs = site.outputs
        sizes = {t: self.in_features if t == "down" else b - a for t, (a, b) in site.outputs.items()}
        self.scales = nn.ParameterDict({target: torch.ones(size) for target, size in sizes.items()})

    def forward(self, x: Tensor) -> Tensor:
        if "down" in self.outputs:
            return F.linear(x * self.scales["down"], self.weight, self.bias)
        return F.linear(x, self.weight, self.bias) * self._output_scales()

    def merged(self) -> tuple[Tensor, Tensor | None]:
        if "down" in self.outputs:
            return self.weight * self.scales["down"], self.bias
        scales = self._output_scales()
        return self.weight * scales[:, None], None if self.bias is None else self.bias * scales

    def _output_scales(self) -> Tensor:
        """(O,) what each output is multiplied by."""
        scales = self.weight.new_ones(self.out_features)
        for target, (begin, end) in self.outputs.items():
            scales[begin:end] = self.scales[target]
        return scales
