"""Ids to vectors: the word table, the segment table, and the way up to the model's width."""

from __future__ import annotations

import abc

from torch import Tensor, nn

from encodery.base.parts import Part
from encodery.model.shape import Shape


class Embeddings(Part):
    """How ids become vectors. E, the embedding width, may differ from the model's width H."""

    @abc.abstractmethod
    def size(self, width: int) -> int:
        """E, the width of the tables, for a model of that width."""

    @abc.abstractmethod
    def build(self, shape: Shape) -> EmbeddingsModule:
        """The module for `shape`, with `shape.embedding == size(shape.width)`."""


class EmbeddingsModule(nn.Module):
    """Tables `word` (V, E) and, with segments, `segment` (S, E)."""

    @property
    @abc.abstractmethod
    def token_embeddings(self) -> Tensor:
        """The word table (V, E), to which a tied decoder is bound."""

    @abc.abstractmethod
    def forward(self, ids: Tensor, segment: Tensor | None) -> Tensor:
        """ids (T,), segment (T,) or None (all of segment 0) → (T, E)."""

    def widen(self, x: Tensor) -> Tensor:
        """(T, E) after position, norm and dropout → (T, H)."""
        return x
