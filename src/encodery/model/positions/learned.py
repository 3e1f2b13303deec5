"""Learned absolute positions: a table whose rows are added to the embeddings. arXiv:1810.04805

Shapes: T tokens, E embedding size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.base.errors import InputError
from encodery.model.head_weights import OffsetPattern
from encodery.model.positions import PositionKind, Positions, PositionsModule
from encodery.model.shape import Layout, Shape
from encodery.model.weights import EmbeddingTable


@dataclass(frozen=True, kw_only=True)
class LearnedPositions(Positions):
    """Use it for the architecture of BERT and RoBERTa; sequences cannot be longer than `max_length`.

    `offset` is the table's row of position 0; the rows before it are unused (RoBERTa has two of them).

        [model]
        positions = "learned"
    """

    offset: int = 0

    @property
    def kinds(self) -> frozenset[PositionKind]:
        return frozenset({"embeddings"})

    def build(self, shape: Shape) -> PositionsModule:
        return _LearnedModule(shape, self.offset)


class _LearnedModule(PositionsModule):
    def __init__(self, shape: Shape, offset: int) -> None:
        super().__init__()
        self.offset = offset
        self.max_length = shape.max_length
        self.frequencies = min(shape.head_size, shape.embedding_size) // 2
        self.table = EmbeddingTable(shape.max_length + offset, shape.embedding_size)

    def add(self, x: Tensor, layout: Layout) -> Tensor:
        if layout.max_seqlen > self.max_length:
            raise InputError(
                f"A sequence of {layout.max_seqlen} tokens is longer than the model's {self.max_length} learned "
                "positions."
            )
        index = layout.text_positions + self.offset if self.offset else layout.text_positions
        return x + F.embedding(index, self.table.weight)

    def init_offset_features(self, std: float, generator: torch.Generator) -> None:
        """Fill the table with sines and cosines in random directions, of frequencies spread evenly up to the highest
        one, whose period is two tokens."""
        count = self.frequencies
        steps = (torch.arange(count) + torch.rand(count, generator=generator)) / max(count, 1) * math.pi
        angles = torch.arange(self.max_length)[:, None] * steps
        size = self.table.weight.shape[1]
        directions = torch.linalg.qr(torch.randn(size, 2 * count, generator=generator))[0]
        waves = torch.cat([angles.cos(), angles.sin()], 1) @ directions.T
        with torch.no_grad():
            self.table.weight[self.offset :] = std * math.sqrt(size / max(count, 1)) * waves

    def offset_pattern(self, offset: int, sharpness: float, shape: Shape) -> OffsetPattern | None:
        """Keys are the leading directions of the table; queries are the same, shifted by `offset` by a linear map that
        is fitted to the table."""
        vectors = self.table.weight.detach()[self.offset :]
        if len(vectors) <= abs(offset):
            return None
        basis = torch.linalg.svd(vectors, full_matrices=False).Vh[: shape.head_size]
        codes = vectors @ basis.T
        here, there = (codes[:-offset], codes[offset:]) if offset > 0 else (codes[-offset:], codes[:offset])
        shifted = torch.linalg.lstsq(here, there, driver="gelsd").solution.T @ basis
        both = F.pad(torch.stack([shifted, basis]), (0, 0, 0, shape.head_size - len(basis)))
        # Of an input's mean square of 1, half is due to its position.
        return OffsetPattern(weights=both * math.sqrt(sharpness * math.sqrt(shape.head_size) / (vectors.shape[1] / 2)))
