"""Another loss on embeddings of full and of reduced dimension, so that they can be truncated in use. arXiv:2205.13147

The loss of each dimension is reported by its name (`infonce_64`). Equals the inner loss where `dims` holds only the
full dimension. In use, the postprocess step `truncate` truncates the embeddings. Shapes: K dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from encodery.base.errors import SettingsError
from encodery.embed.loss_inputs import LossInputs, vector_inputs
from encodery.embed.losses._bases import WrapperLoss
from encodery.objectives import LossTerm

MIN_DIM = 32  # Of the dimensions that are chosen by default.


@dataclass(frozen=True, kw_only=True)
class Matryoshka(WrapperLoss):
    """Use it where users of the embeddings choose between quality and size.

    `dims`: the dimensions besides the full one; by default it is halved down to 32. `weights`: one per dimension (1 by
    default); that of the full dimension is 1.

        loss = {is = "matryoshka", loss = "infonce", dims = [128, 64]}
    """

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

    @property
    def needs_vectors(self) -> bool:
        return True

    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        vectors = vector_inputs(inputs)
        terms = dict(self.loss.terms(vectors))
        learned = [name for name, term in terms.items() if term.weight]
        dims = self.dims or _halves(vectors.dim)
        for dim, weight in zip(dims, self.weights or (1.0,) * len(dims), strict=True):
            if dim > vectors.dim:
                raise SettingsError(f"dims: {dim} exceeds the {vectors.dim} dimensions of the embeddings.")
            if dim == vectors.dim:
                continue
            short = self.loss.terms(vectors.truncate(dim))
            for name in learned:
                whole, part = terms[name], short[name]
                terms[name] = LossTerm(whole.total + weight * part.total, whole.count, whole.weight)
                terms[f"{name}_{dim}"] = LossTerm(part.total.detach(), part.count, 0.0)
        return terms


def _halves(dim: int) -> tuple[int, ...]:
    dims = []
    while dim // 2 >= MIN_DIM:
        dim //= 2
        dims.append(dim)
    return tuple(dims)
