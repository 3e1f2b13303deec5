"""Learned absolute positions: a table added to the embeddings. arXiv:1810.04805

Shapes: T tokens, E embedding width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.base.errors import InputError
from encodery.model.positions import OffsetPattern, Positions, PositionsModule
from encodery.model.shape import Layout, Shape
from encodery.model.weights import EmbeddingTable


@dataclass(frozen=True, kw_only=True)
class LearnedPositions(Positions):
    """`offset` is the row of position 0; rows before it are unused (RoBERTa keeps two)."""

    offset: int = 0

    def build(self, shape: Shape) -> PositionsModule:
        return _LearnedModule(shape, self.offset)


class _LearnedModule(PositionsModule):
    def __init__(self, shape: Shape, offset: int) -> None:
        super().__init__()
        self.offset = offset
        self.max_length = shape.max_length
        self.waves = min(shape.head_size, shape.embedding_size) // 2
        self.table = EmbeddingTable(shape.max_length + offset, shape.embedding_size)

    def add(self, x: Tensor, layout: Layout) -> Tensor:
        if layout.max_seqlen > self.max_length:
            raise InputError(
                f"A sequence of {layout.max_seqlen} tokens is longer than the {self.max_length} positions learned."
            )
        index = layout.text_positions + self.offset if self.offset else layout.text_positions
        return x + F.embedding(index, self.table.weight)

    def init_offset_features(self, std: float, generator: torch.Generator) -> None:
        """Sines and cosines of frequencies spread evenly up to one turn in two tokens, in random directions."""
        steps = (torch.arange(self.waves) + torch.rand(self.waves, generator=generator)) / max(self.waves, 1) * math.pi
        angles = torch.arange(self.max_length)[:, None] * steps
        size = self.table.weight.shape[1]
        turn = torch.linalg.qr(torch.randn(size, 2 * self.waves, generator=generator))[0]
        waves = torch.cat([angles.cos(), angles.sin()], 1) @ turn.T
        with torch.no_grad():
            self.table.weight[self.offset :] = std * math.sqrt(size / max(self.waves, 1)) * waves

    def offset_pattern(self, offset: int, sharpness: float, shape: Shape) -> OffsetPattern | None:
        """Keys are the leading directions of the table, queries the same moved by `offset`, fitted to the table."""
        places = self.table.weight.detach()[self.offset :]
        if len(places) <= abs(offset):
            return None
        basis = torch.linalg.svd(places, full_matrices=False).Vh[: shape.head_size]
        codes = places @ basis.T
        here, there = (codes[:-offset], codes[offset:]) if offset > 0 else (codes[-offset:], codes[:offset])
        moved = torch.linalg.lstsq(here, there, driver="gelsd").solution.T @ basis
        both = F.pad(torch.stack([moved, basis]), (0, 0, 0, shape.head_size - len(basis)))
        # Half of an input's mean square of 1 is its place's.
        return OffsetPattern(weights=both * math.sqrt(sharpness * math.sqrt(shape.head_size) / (places.shape[1] / 2)))
