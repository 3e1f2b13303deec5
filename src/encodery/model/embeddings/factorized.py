"""Factorised embeddings: narrow tables, then one linear map to the model's width. arXiv:1909.11942

Differs from `plain`: V·E + E·H parameters instead of V·H. The norm and the dropout act on E, before the map.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from encodery.model.embeddings import Embeddings, EmbeddingsModule
from encodery.model.embeddings._tables import EmbeddingTables
from encodery.model.shape import Shape
from encodery.model.weights import Linear


@dataclass(frozen=True, kw_only=True)
class FactorizedEmbeddings(Embeddings):
    """Use it if the token embeddings would dominate the parameters, as with a large vocabulary and a small model.

    `width` is E; `bias`: whether the map has a bias.

        [model.embeddings]
        is = "factorized"
        width = 128
    """

    width: int = 128
    bias: bool = True

    def size(self, width: int) -> int:
        return self.width

    def build(self, shape: Shape) -> EmbeddingsModule:
        return _FactorizedModule(shape, self.bias)


class _FactorizedModule(EmbeddingTables):
    def __init__(self, shape: Shape, bias: bool) -> None:
        super().__init__(shape)
        self.project = Linear(shape.embedding_size, shape.width, bias=bias)

    def forward(self, ids: Tensor, segment: Tensor | None) -> Tensor:
        return self.lookup(ids, segment)

    def widen(self, x: Tensor) -> Tensor:
        widened: Tensor = self.project(x)
        return widened
