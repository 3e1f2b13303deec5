"""Another loss on the last layer and on earlier ones, so that a model may be cut short in use. arXiv:2402.14776 (2DMSE)

A few layers are drawn for each step; each learns from the inner loss and is drawn to the last layer's vectors. With
`matryoshka` inside both directions are trained: fewer layers and shorter vectors. In use: `embed.layers`.
Shapes: B examples, C columns, K width.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.embed.losses import Given
from encodery.embed.losses._kinds import Around
from encodery.objectives import Count, Term


@dataclass(frozen=True, kw_only=True)
class MatryoshkaLayers(Around):
    """`per_step`: earlier layers drawn for a step; `weight` of their loss together; `align`: weight of the divergence
    from the last layer's vectors, as distributions over their places; `temperature` of those."""

    per_step: int = 1
    weight: float = 1.0
    align: float = 1.0
    temperature: float = 0.3

    def __post_init__(self) -> None:
        if self.per_step < 1 or self.weight < 0 or self.align < 0 or not self.temperature > 0:
            raise SettingsError(
                f"per_step = {self.per_step}, weight = {self.weight}, align = {self.align}, temperature = "
                f"{self.temperature}: at least 1, not negative, not negative, positive."
            )

    @property
    def together(self) -> bool:
        return self.loss.together

    def layers(self, depth: int, seed: int) -> tuple[int, ...]:
        earlier = range(1, depth)
        return tuple(sorted(random.Random(seed).sample(earlier, min(self.per_step, len(earlier)))))

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        return {**self.loss.counts(columns, examples, target), "align": columns * examples}

    def terms(self, given: Given) -> Mapping[str, Term]:
        found = dict(self.loss.terms(given))
        learned = [name for name, term in found.items() if term.weight]
        size = len(given.vectors) * given.size
        apart = given.vectors[0].new_zeros(())
        share = 1 / max(len(given.layers), 1)
        for layer in given.layers:
            terms = self.loss.terms(layer)
            for name in learned:
                whole = found[name]
                total = whole.total + self.weight * share * terms[name].total
                found[name] = Term(total, whole.count, whole.weight)
            apart = apart + share * self._apart(layer, given)
        return {**found, "align": Term(apart, size, self.align)}

    def _apart(self, layer: Given, last: Given) -> Tensor:
        total = layer.vectors[0].new_zeros(())
        for early, late in zip(layer.vectors, last.vectors, strict=True):
            ours = F.log_softmax(early.float() / self.temperature, dim=1)
            theirs = F.log_softmax(late.detach().float() / self.temperature, dim=1)
            total = total + F.kl_div(ours, theirs, reduction="sum", log_target=True)
        return total * self.temperature**2
