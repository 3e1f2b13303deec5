"""What a loss of embeddings sees of a step: how similar the texts of its examples are.

An example is C texts: an anchor, a positive, then negatives. The texts of B examples are held by column. Losses use the
similarities between columns; a loss that computes with the embeddings themselves needs `VectorInputs` and says so with
`Loss.needs_vectors`. Shapes: B examples, C columns, K dimensions of an embedding, T tokens of all texts of a column.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.encoders.multi_vector import max_sim

Similarity = Literal["cosine", "dot"]


@dataclass(frozen=True, eq=False)
class LossInputs(abc.ABC):
    """The examples of a step, encoded.

    Args:
        vectors: C tensors, the embeddings of each column.
        target: what the examples are labelled with (`losses.TargetKind`): (B,), or (B, C - 1) for "scores".
        texts: (C, B) int64, equal where texts are equal, so that no text is a negative of itself.
        guide: another model's embeddings of the same texts.
        layers: embeddings of the same texts made from earlier layers, where the loss samples layers.
        progress: 0..1, how much of the run is done.
    """

    vectors: tuple[Tensor, ...]
    target: Tensor | None = None
    texts: Tensor | None = None
    guide: VectorInputs | None = None
    layers: tuple[VectorInputs, ...] = ()
    progress: float = 1.0

    @abc.abstractmethod
    def cross(self, first: int, second: int, similarity: Similarity = "cosine") -> Tensor:
        """(B, B) similarity of each text of column `first` with each text of column `second`."""

    @abc.abstractmethod
    def pairs(self, first: int, second: int, similarity: Similarity = "cosine") -> Tensor:
        """(B,) similarity of each example's own texts in two columns."""

    @property
    @abc.abstractmethod
    def batch_size(self) -> int:
        """Number of examples B."""

    @property
    def num_columns(self) -> int:
        """Number of texts C of an example."""
        return len(self.vectors)

    @property
    def dim(self) -> int:
        """Dimensions K of an embedding."""
        return int(self.vectors[0].shape[-1])

    @property
    def device(self) -> torch.device:
        """Where the embeddings are."""
        return self.vectors[0].device


@dataclass(frozen=True, eq=False)
class VectorInputs(LossInputs):
    """One embedding per text: `vectors` are C tensors (B, K)."""

    def cross(self, first: int, second: int, similarity: Similarity = "cosine") -> Tensor:
        """See `LossInputs`."""
        left, right = self._columns(first, second, similarity)
        return left @ right.T

    def pairs(self, first: int, second: int, similarity: Similarity = "cosine") -> Tensor:
        """See `LossInputs`."""
        left, right = self._columns(first, second, similarity)
        return (left * right).sum(1)

    def truncate(self, dim: int) -> VectorInputs:
        """Return the inputs with the first `dim` dimensions of each embedding."""
        return replace(
            self,
            vectors=tuple(vector[:, :dim] for vector in self.vectors),
            layers=tuple(layer.truncate(dim) for layer in self.layers),
        )

    @property
    def batch_size(self) -> int:
        """See `LossInputs`."""
        return len(self.vectors[0])

    def _columns(self, first: int, second: int, similarity: Similarity) -> tuple[Tensor, Tensor]:
        left, right = self.vectors[first].float(), self.vectors[second].float()
        return (left, right) if similarity == "dot" else (F.normalize(left, dim=-1), F.normalize(right, dim=-1))


@dataclass(frozen=True, eq=False)
class TokenInputs(LossInputs):
    """One unit vector per token (late interaction): `vectors` are C tensors (T, K).

    Similarities are MaxSim divided by the number of the first text's tokens, so that temperatures mean the same as for
    single vectors; the kind of similarity makes no difference.

    Args:
        owners: C tensors (T,), the example of each token.
        num_examples: B.
    """

    owners: tuple[Tensor, ...] = ()
    num_examples: int = 0

    def cross(self, first: int, second: int, similarity: Similarity = "cosine") -> Tensor:
        """(B, B) mean over the tokens of a text of `first` of the best match in a text of `second`."""
        sizes = self.num_examples, self.num_examples
        total = max_sim(self.vectors[first], self.owners[first], self.vectors[second], self.owners[second], sizes)
        return total / torch.bincount(self.owners[first], minlength=self.num_examples)[:, None]

    def pairs(self, first: int, second: int, similarity: Similarity = "cosine") -> Tensor:
        """See `LossInputs`."""
        return self.cross(first, second, similarity).diagonal()

    @property
    def batch_size(self) -> int:
        """See `LossInputs`."""
        return self.num_examples


def vector_inputs(inputs: LossInputs) -> VectorInputs:
    """Return inputs of a loss that needs one embedding per text; the objective has checked that it gives them."""
    assert isinstance(inputs, VectorInputs)
    return inputs
