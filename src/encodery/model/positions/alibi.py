"""Linear biases: scores fall with distance, at a slope of its own for each head, alike on both sides. arXiv:2108.12409

Differs from `learned`: nothing is learned or added; lengths beyond training work. Symmetric as MosaicBERT has it.
Shapes: N heads, R longest sequence of the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.model.positions import Positions, PositionsModule
from encodery.model.shape import Layout, Shape


@dataclass(frozen=True, kw_only=True)
class ALiBi(Positions):
    """No settings: slopes are the powers of the paper."""

    def build(self, shape: Shape) -> PositionsModule:
        return _ALiBiModule(shape.heads)


def _slopes(heads: int) -> list[float]:
    """Geometric from 2^(-8/n) for a power of two; else those of the power below, then every second one of twice it."""
    power = 2 ** math.floor(math.log2(heads))
    first = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    return first + [2 ** (-4 * (i + 1) / power) for i in range(0, 2 * (heads - power), 2)]


class _ALiBiModule(PositionsModule):
    def __init__(self, heads: int) -> None:
        super().__init__()
        self.slopes = _slopes(heads)

    def bias(self, layout: Layout, shape: Shape) -> Tensor | None:
        if layout.has_gaps:
            raise SettingsError(
                "positions = alibi: counts distances from neighbour to neighbour, so no token can be left out."
            )
        key = (ALiBi, len(self.slopes))
        if key not in layout.memo:
            device = layout.cu_seqlens.device
            distance = torch.arange(1 - layout.max_seqlen, layout.max_seqlen, device=device).abs()
            layout.memo[key] = distance * -torch.tensor(self.slopes, device=device)[:, None]
        found: Tensor = layout.memo[key]
        return found
