"""Another loss on the whole vectors and on their beginnings, so that a vector may be cut short in use. arXiv:2205.13147

The loss of each length is reported by its name (`infonce_64`). Equals the inner loss where `dims` names only the full
width. Cut in use with the finish step `truncate`. Shapes: K width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from encodery.base.errors import SettingsError
from encodery.embed.losses import LossInputs
from encodery.embed.losses._bases import WrapperLoss
from encodery.objectives import LossTerm

SHORTEST = 32


@dataclass(frozen=True, kw_only=True)
class Matryoshka(WrapperLoss):
    """`dims`: the lengths, beside the full one; if not given, halves down to 32. `weights`: one a length, the full
    width's not among them, which is 1; all 1 if not given."""

    dims: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if any(dim < 1 for dim in self.dims) or len(set(self.dims)) < len(self.dims):
            raise SettingsError(f"dims = {list(self.dims)}: must be positive and differ.")
        if self.weights and len(self.weights) != len(self.dims):
            raise SettingsError(f"weights = {list(self.weights)}: must be as many as dims, {len(self.dims)}.")

    @property
    def in_batch(self) -> bool:
        return self.loss.in_batch

    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        found = dict(self.loss.terms(inputs))
        learned = {name: term for name, term in found.items() if term.weight}
        dims = self.dims or _halves(inputs.dim)
        for dim, weight in zip(dims, self.weights or (1.0,) * len(dims), strict=True):
            if dim > inputs.dim:
                raise SettingsError(f"dims: {dim} exceeds the width {inputs.dim} of the vectors.")
            if dim == inputs.dim:
                continue
            short = self.loss.terms(inputs.truncate(dim))
            for name in learned:
                whole, part = found[name], short[name]
                found[name] = LossTerm(whole.total + weight * part.total, whole.count, whole.weight)
                found[f"{name}_{dim}"] = LossTerm(part.total.detach(), part.count, 0.0)
        return found


def _halves(width: int) -> tuple[int, ...]:
    dims = []
    while width // 2 >= SHORTEST:
        width //= 2
        dims.append(width)
    return tuple(dims)
