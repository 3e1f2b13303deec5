"""Another loss on the last layer and on earlier ones, so that a model may be cut short in use. arXiv:2402.14776 (2DMSE)

A few layers are drawn for each step; each learns from the inner loss and is drawn to the last layer's vectors. With
`matryoshka` inside both directions are trained: fewer layers and shorter vectors. In use: `encoder.layers`.
Shapes: B examples, C columns, K width.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.embed.losses import LossInputs
from encodery.embed.losses._bases import WrapperLoss
from encodery.objectives import Count, LossTerm


@dataclass(frozen=True, kw_only=True)
class MatryoshkaLayers(WrapperLoss):
    """`per_step`: earlier layers drawn for a step; `weight` of their loss together; `align`: weight of the divergence
    from the last layer's vectors, as distributions over their places; `temperature` of those."""

    layers_per_step: int = 1
    weight: float = 1.0
    align_weight: float = 1.0
    temperature: float = 0.3

    def __post_init__(self) -> None:
        if self.layers_per_step < 1 or self.weight < 0 or self.align_weight < 0 or not self.temperature > 0:
            raise SettingsError(
                f"per_step = {self.layers_per_step}, weight = {self.weight}, align = {self.align_weight}, temperature = "
                f"{self.temperature}: at least 1, not negative, not negative, positive."
            )

    @property
    def in_batch(self) -> bool:
        return self.loss.in_batch

    def sample_layers(self, depth: int, seed: int) -> tuple[int, ...]:
        earlier = range(1, depth)
        return tuple(sorted(random.Random(seed).sample(earlier, min(self.layers_per_step, len(earlier)))))

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        return {**self.loss.counts(columns, examples, target), "align": columns * examples}

    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        found = dict(self.loss.terms(inputs))
        learned = [name for name, term in found.items() if term.weight]
        size = len(inputs.vectors) * inputs.batch_size
        apart = inputs.vectors[0].new_zeros(())
        share = 1 / max(len(inputs.layers), 1)
        for layer in inputs.layers:
            terms = self.loss.terms(layer)
            for name in learned:
                whole = found[name]
                total = whole.total + self.weight * share * terms[name].total
                found[name] = LossTerm(total, whole.count, whole.weight)
            apart = apart + share * self._apart(layer, inputs)
        return {**found, "align": LossTerm(apart, size, self.align_weight)}

    def _apart(self, layer: LossInputs, last: LossInputs) -> Tensor:
        total = layer.vectors[0].new_zeros(())
        for early, late in zip(layer.vectors, last.vectors, strict=True):
            ours = F.log_softmax(early.float() / self.temperature, dim=1)
            theirs = F.log_softmax(late.detach().float() / self.temperature, dim=1)
            total = total + F.kl_div(ours, theirs, reduction="sum", log_target=True)
        return total * self.temperature**2
