"""What embeddings learn from: vectors, pairs, scores and labels in, named terms out. A loss never sees a model.

An example is C texts: an anchor, what belongs to it, what does not. A loss gets the vectors of B examples by column and
speaks of them through similarities, so that it also serves where a text has several vectors (`encoders/multi_vector.py`).
Terms are sums with counts, as everywhere (`encodery.objectives`). Shapes: B examples, C columns, K width of a vector.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from encodery.base.parts import Part
from encodery.objectives import Count, LossTerm

Similarity = Literal["cosine", "dot"]
TargetKind = Literal["none", "score", "scores", "label"]
"""What an example is labelled with: nothing; one number, how alike its two texts are; a number for each text after the
first; or the class of its one text."""


@dataclass(frozen=True, eq=False)
class LossInputs:
    """`vectors`: C of (B, K). `target`: (B,) or, for "scores", (B, C - 1). `texts`: (C, B) int64, equal where texts are
    equal, so that a text is never taken for a wrong answer to itself. `guide`: another model's vectors of the same
    texts. `layers`: the same from earlier layers, where the loss asked for them. `progress`: 0..1 of the run."""

    vectors: tuple[Tensor, ...]
    target: Tensor | None = None
    texts: Tensor | None = None
    guide: LossInputs | None = None
    layers: tuple[LossInputs, ...] = ()
    progress: float = 1.0

    def cross(self, one: int, other: int, kind: Similarity = "cosine") -> Tensor:
        """(B, B) similarity of each vector of column `one` with each of column `other`."""
        left, right = self._sides(one, other, kind)
        return left @ right.T

    def pairs(self, one: int, other: int, kind: Similarity = "cosine") -> Tensor:
        """(B,) similarity of the vectors of two columns, row by row."""
        left, right = self._sides(one, other, kind)
        return (left * right).sum(1)

    def truncate(self, dim: int) -> LossInputs:
        """The same with the first `width` numbers of each vector."""
        return replace(
            self,
            vectors=tuple(vector[:, :dim] for vector in self.vectors),
            layers=tuple(layer.truncate(dim) for layer in self.layers),
        )

    @property
    def batch_size(self) -> int:
        """Number of examples B."""
        return len(self.vectors[0])

    @property
    def dim(self) -> int:
        """Width K of a vector."""
        return int(self.vectors[0].shape[-1])

    def _sides(self, one: int, other: int, kind: Similarity) -> tuple[Tensor, Tensor]:
        left, right = self.vectors[one].float(), self.vectors[other].float()
        return (left, right) if kind == "dot" else (F.normalize(left, dim=-1), F.normalize(right, dim=-1))


class Loss(Part):
    """Contract of a loss."""

    @property
    def in_batch(self) -> bool:
        """Whether the loss of an example depends on the other examples of its batch; so by default."""
        return True

    @property
    def target_kind(self) -> TargetKind:
        """What must stand in `Given.target`; nothing by default."""
        return "none"

    @property
    def column_range(self) -> tuple[int, int | None]:
        """The least and the most columns of an example (None: any number); an anchor and a partner by default."""
        return 2, None

    @property
    def needs_guide(self) -> bool:
        """Whether `Given.guide` is needed."""
        return False

    def sample_layers(self, depth: int, seed: int) -> tuple[int, ...]:
        """Numbers 1 … depth - 1 of the layers whose vectors are wanted beside the last; none by default."""
        return ()

    @abc.abstractmethod
    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        """The count of every learned term, before there are vectors."""

    @abc.abstractmethod
    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        """The learned terms, and others of weight 0 that are only reported."""
