"""Several losses at once, each with a weight, over the same vectors.

Such as a ranking of pairs and the similarities of a guide (LEALLA, arXiv:2302.08387). Equals `loss` without `also`.
Shapes: B examples, C columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.embed.losses import Loss, LossInputs, TargetKind
from encodery.objectives import Count, LossTerm

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Combined(Loss):
    """`loss`: the first; `also`: the others, with `weights` (1 each if not given)."""

    loss: Loss
    others: tuple[Loss, ...] = ()
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.others):
            raise SettingsError(
                f"weights = {list(self.weights)}: one for each of the {len(self.others)} losses in also."
            )
        if any(weight <= 0 for weight in self.weights):
            raise SettingsError(f"weights = {list(self.weights)}: must be positive.")
        asked = {loss.target_kind for loss in self._all} - {"none"}
        if len(asked) > 1:
            raise SettingsError(f"several: the losses learn from different labels: {', '.join(sorted(asked))}.")
        least, most = self.column_range
        if most is not None and least > most:
            raise SettingsError(f"several: one loss needs {least} texts an example, another takes {most}.")

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
        least = max(loss.column_range[0] for loss in self._all)
        ends = [most for _, most in (loss.column_range for loss in self._all) if most is not None]
        return least, min(ends, default=None)

    @property
    def needs_guide(self) -> bool:
        return any(loss.needs_guide for loss in self._all)

    def sample_layers(self, depth: int, seed: int) -> tuple[int, ...]:
        found = [asked for loss in self._all if (asked := loss.sample_layers(depth, seed))]
        if len(found) > 1:
            raise SettingsError("several: only one of the losses may learn from earlier layers.")
        return found[0] if found else ()

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        found: dict[str, Count] = {}
        for loss in self._all:
            found = _joined(found, loss.counts(columns, examples, target), loss)
        return found

    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        plain = replace(inputs, layers=())
        found: dict[str, LossTerm] = {}
        for loss, weight in zip(self._all, (1.0, *(self.weights or (1.0,) * len(self.others))), strict=True):
            seen = inputs if loss.sample_layers(len(inputs.layers) + 2, 0) else plain
            terms = {name: replace(term, weight=term.weight * weight) for name, term in loss.terms(seen).items()}
            found = _joined(found, terms, loss)
        return found


def _joined(found: dict[str, T], more: Mapping[str, T], loss: Loss) -> dict[str, T]:
    """Both tables. Raises `SettingsError` where a name is in both."""
    for name in more:
        if name in found:
            raise SettingsError(f"several: another loss before '{name_of(loss)}' has a term '{name}' as well.")
    return {**found, **more}
