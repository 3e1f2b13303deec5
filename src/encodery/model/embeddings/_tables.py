"""The tables of token and segment embeddings, which all parts of this family have."""

from __future__ import annotations

from torch import Tensor

from encodery.model.embeddings import EmbeddingsModule
from encodery.model.shape import Shape
from encodery.model.weights import EmbeddingTable


class EmbeddingTables(EmbeddingsModule):
    """`word` (V, E), and `segment` (S, E) if S > 0. Abstract."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.word = EmbeddingTable(shape.vocab_size, shape.embedding_size)
        self.segment = EmbeddingTable(shape.type_vocab_size, shape.embedding_size) if shape.type_vocab_size else None

    @property
    def token_embeddings(self) -> Tensor:
        return self.word.weight

    def lookup(self, ids: Tensor, segment: Tensor | None) -> Tensor:
        """ids (T,), segment (T,) or None → (T, E)."""
        x: Tensor = self.word(ids)
        if self.segment is None:
            return x
        return x + (self.segment.weight[0] if segment is None else self.segment(segment))
