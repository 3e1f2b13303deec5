"""Learned absolute positions: a table added to the embeddings. arXiv:1810.04805

Shapes: T tokens, E embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from encodery.base.errors import InputError
from encodery.model.positions import Positions, PositionsModule
from encodery.model.shape import Layout, Shape
from encodery.model.weights import Table


@dataclass(frozen=True, kw_only=True)
class Learned(Positions):
    """`offset` is the row of position 0; rows before it are unused (RoBERTa keeps two)."""

    offset: int = 0

    def build(self, shape: Shape) -> PositionsModule:
        return _LearnedModule(shape, self.offset)


class _LearnedModule(PositionsModule):
    def __init__(self, shape: Shape, offset: int) -> None:
        super().__init__()
        self.offset = offset
        self.max_length = shape.max_length
        self.table = Table(shape.max_length + offset, shape.embedding)

    def add(self, x: Tensor, layout: Layout) -> Tensor:
        if layout.max_seqlen > self.max_length:
            raise InputError(
                f"A sequence of {layout.max_seqlen} tokens is longer than the {self.max_length} positions learned."
            )
        index = layout.places + self.offset if self.offset else layout.places
        return x + F.embedding(index, self.table.weight)
