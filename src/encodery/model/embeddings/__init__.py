"""Embeddings: token ids and segments to vectors, and the projection to the model's width."""

from __future__ import annotations

import abc

from torch import Tensor, nn

from encodery.base.parts import Part
from encodery.model.shape import Shape


class Embeddings(Part):
    """How ids become vectors. The embedding size E may differ from the model's width H."""

    @abc.abstractmethod
    def size(self, width: int) -> int:
        """The embedding size E of a model of that width."""

    @abc.abstractmethod
    def build(self, shape: Shape) -> EmbeddingsModule:
        """The module for `shape`, where `shape.embedding_size == size(shape.width)`."""


class EmbeddingsModule(nn.Module):
    """The tables `word` (V, E) and, for a model with segments, `segment` (S, E). Abstract."""

    @property
    @abc.abstractmethod
    def token_embeddings(self) -> Tensor:
        """The token embeddings (V, E), which a tied decoder shares."""

    @abc.abstractmethod
    def forward(self, ids: Tensor, segment: Tensor | None) -> Tensor:
        """ids (T,), segment (T,) or None (all in segment 0) → (T, E)."""

    def widen(self, x: Tensor) -> Tensor:
        """(T, E) after positions, norm and dropout → (T, H)."""
        return x
