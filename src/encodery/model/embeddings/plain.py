"""Plain embeddings: a table of the model's width, plus a segment table if there are segments. arXiv:1810.04805

Shapes: T tokens, V vocabulary, S segments, E = H.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from encodery.model.embeddings import Embeddings, EmbeddingsModule
from encodery.model.embeddings._tables import EmbeddingTables
from encodery.model.shape import Shape


@dataclass(frozen=True, kw_only=True)
class PlainEmbeddings(Embeddings):
    """Use it unless the vocabulary is large for the model's width. Has no settings: E is the width.

    [model]
    embeddings = "plain"
    """

    def size(self, width: int) -> int:
        return width

    def build(self, shape: Shape) -> EmbeddingsModule:
        return _PlainModule(shape)


class _PlainModule(EmbeddingTables):
    def forward(self, ids: Tensor, segment: Tensor | None) -> Tensor:
        return self.lookup(ids, segment)
