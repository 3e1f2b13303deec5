"""Sinusoidal positions, added to the embeddings: sines in even channels, cosines in odd ones. arXiv:1706.03762

Differs from `learned`: sequences may have any length, and nothing is learned except, with `scaled`, one factor
(arXiv:2212.14034). Shapes: T tokens, E embedding size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from encodery.model.positions import PositionKind, Positions, PositionsModule
from encodery.model.shape import Layout, Shape


@dataclass(frozen=True, kw_only=True)
class SinusoidalPositions(Positions):
    """Use it for absolute positions without a limit on the length.

    `theta` is the longest wavelength divided by 2π; `scaled` multiplies the positions by a learned factor.

        [model.positions]
        is = "sinusoidal"
        scaled = true
    """

    unsupported: ClassVar[frozenset[str]] = frozenset({"offset_patterns"})

    theta: float = 10_000.0
    scaled: bool = False

    @property
    def kinds(self) -> frozenset[PositionKind]:
        return frozenset({"embeddings"})

    def build(self, shape: Shape) -> PositionsModule:
        return _SinusoidalModule(shape.embedding_size, self.theta, self.scaled)

    def incompatibility(self, shape: Shape) -> str | None:
        return f"needs an even embedding size, not {shape.embedding_size}." if shape.embedding_size % 2 else None


class _SinusoidalModule(PositionsModule):
    def __init__(self, size: int, theta: float, scaled: bool) -> None:
        super().__init__()
        self.size, self.theta = size, theta
        self.scale = nn.Parameter(torch.full((1,), 1 / math.sqrt(size))) if scaled else None

    def add(self, x: Tensor, layout: Layout) -> Tensor:
        step = torch.arange(0, self.size, 2, device=x.device, dtype=torch.float32)
        frequencies = torch.exp(step * (-math.log(self.theta) / self.size))
        angle = layout.text_positions[:, None] * frequencies
        wave = torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1).to(x.dtype)
        return x + (wave if self.scale is None else wave * self.scale.to(x.dtype))
