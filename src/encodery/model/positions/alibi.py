"""Linear biases (ALiBi): scores fall linearly with distance, with one slope per head. arXiv:2108.12409

Symmetric, as in MosaicBERT. Differs from `learned`: nothing is learned or added to embeddings; sequences may be longer
than in training. Shapes: N heads, R longest sequence of the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from encodery.model.positions import PositionKind, Positions, PositionsModule, check_no_gaps
from encodery.model.shape import Layout, Shape


@dataclass(frozen=True, kw_only=True)
class ALiBi(Positions):
    """Use it if documents will be longer than in training. Has no settings: the slopes are those of the paper.

    [model]
    positions = "alibi"
    """

    unsupported: ClassVar[frozenset[str]] = frozenset({"offset_patterns"})

    @property
    def kinds(self) -> frozenset[PositionKind]:
        return frozenset({"bias"})

    def build(self, shape: Shape) -> PositionsModule:
        return _ALiBiModule()


def _slopes(heads: int) -> list[float]:
    """Powers of 2^(-8/n) for n a power of two; otherwise those of the next lower power n, then every second of 2n."""
    power = 2 ** math.floor(math.log2(heads))
    first = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    return first + [2 ** (-4 * (i + 1) / power) for i in range(0, 2 * (heads - power), 2)]


class _ALiBiModule(PositionsModule):
    def bias(self, layout: Layout, shape: Shape) -> Tensor | None:
        check_no_gaps(layout, "alibi")
        key = (ALiBi, shape.heads)
        if key not in layout.memo:
            device = layout.cu_seqlens.device
            distance = torch.arange(1 - layout.max_seqlen, layout.max_seqlen, device=device).abs()
            layout.memo[key] = distance * -torch.tensor(_slopes(shape.heads), device=device)[:, None]
        bias: Tensor = layout.memo[key]
        return bias
