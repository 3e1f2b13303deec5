"""Word and segment tables, shared by the embedding parts."""

from __future__ import annotations

from torch import Tensor

from encodery.model.embeddings import EmbeddingsModule
from encodery.model.shape import Shape
from encodery.model.weights import Table


class Tables(EmbeddingsModule):
    """`word` (V, E), and `segment` (S, E) only where S > 0."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.word = Table(shape.vocab, shape.embedding)
        self.segment = Table(shape.segments, shape.embedding) if shape.segments else None

    @property
    def words(self) -> Tensor:
        return self.word.weight

    def lookup(self, ids: Tensor, segment: Tensor | None) -> Tensor:
        """ids (T,), segment (T,) or None → (T, E)."""
        x: Tensor = self.word(ids)
        if self.segment is None:
            return x
        return x + (self.segment.weight[0] if segment is None else self.segment(segment))
