"""A weighted sum of several losses over the same embeddings.

Such as a ranking of pairs and the similarities of a guide (LEALLA, arXiv:2302.08387). Equals `loss` without `others`.
Shapes: B examples, C columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.embed.loss_inputs import LossInputs
from encodery.embed.losses import Loss, TargetKind
from encodery.objectives import Count, LossTerm

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Combined(Loss):
    """Use it where two losses that read the same data are to be learned at once. `loss`: the first, with weight 1;
    `others`: further ones, with `weights` (1 each by default).

        loss = {is = "combined", loss = "infonce", others = ["similarity_kl"], weights = [0.5]}
    """

    loss: Loss
    others: tuple[Loss, ...] = ()
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.others):
            raise SettingsError(f"weights = {list(self.weights)}: must be as many as others, {len(self.others)}.")
        if any(weight <= 0 for weight in self.weights):
            raise SettingsError(f"weights = {list(self.weights)}: must be positive.")
        targets = {loss.target_kind for loss in self._all} - {"none"}
        if len(targets) > 1:
            raise SettingsError(f"combined: the losses need different labels: {', '.join(sorted(targets))}.")
        minimum, maximum = self.column_range
        if maximum is not None and minimum > maximum:
            raise SettingsError(
                f"combined: one loss needs {minimum} texts per example, another takes at most {maximum}."
            )

    @property
    def _all(self) -> tuple[Loss, ...]:
        return self.loss, *self.others

    @property
    def in_batch(self) -> bool:
        return any(loss.in_batch for loss in self._all)

    @property
    def target_kind(self) -> TargetKind:
        return next((loss.target_kind for loss in self._all if loss.target_kind != "none"), "none")

    @property
    def column_range(self) -> tuple[int, int | None]:
        ranges = [loss.column_range for loss in self._all]
        maxima = [maximum for _, maximum in ranges if maximum is not None]
        return max(minimum for minimum, _ in ranges), min(maxima, default=None)

    @property
    def needs_guide(self) -> bool:
        return any(loss.needs_guide for loss in self._all)

    @property
    def needs_vectors(self) -> bool:
        return any(loss.needs_vectors for loss in self._all)

    def sample_layers(self, depth: int, seed: int) -> tuple[int, ...]:
        sampled = [layers for loss in self._all if (layers := loss.sample_layers(depth, seed))]
        if len(sampled) > 1:
            raise SettingsError("combined: only one of the losses may learn from earlier layers.")
        return sampled[0] if sampled else ()

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        counts: dict[str, Count] = {}
        for loss in self._all:
            counts = _union(counts, loss.counts(columns, examples, target), loss)
        return counts

    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        last_layer = replace(inputs, layers=())
        terms: dict[str, LossTerm] = {}
        for loss, weight in zip(self._all, (1.0, *(self.weights or (1.0,) * len(self.others))), strict=True):
            seen = inputs if loss.sample_layers(len(inputs.layers) + 2, 0) else last_layer
            weighted = {name: replace(term, weight=term.weight * weight) for name, term in loss.terms(seen).items()}
            terms = _union(terms, weighted, loss)
        return terms


def _union(table: dict[str, T], more: Mapping[str, T], loss: Loss) -> dict[str, T]:
    """Both tables. Raises `SettingsError` where a name is in both."""
    for name in more:
        if name in table:
            raise SettingsError(f"combined: '{name_of(loss)}' and a loss before it both have a term '{name}'.")
    return {**table, **more}
