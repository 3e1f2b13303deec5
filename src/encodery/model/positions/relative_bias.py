"""Relative bias: a learned number for each head and each bucket of distances, added to scores. arXiv:1910.10683

Small distances have a bucket each, larger ones share buckets that grow with their logarithm; tokens before and after a
token have separate buckets. Differs from `alibi`: learned, and not the same in both directions. With `learned` in a
`sum` these are the positions of MPNet (arXiv:2004.09297). Shapes: N heads, R longest sequence of the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.settings import check_at_least
from encodery.model.cost import Cost
from encodery.model.positions import PositionKind, Positions, PositionsModule, check_no_gaps
from encodery.model.shape import Layout, Shape
from encodery.model.weights import EmbeddingTable

KEPT_WITHOUT_BIAS = 512
"""Longest sequence whose attention weights the CPU keeps in any case; those of longer ones only for this gradient."""


@dataclass(frozen=True, kw_only=True)
class RelativeBias(Positions):
    """Use it for the positions of T5: nothing is added to embeddings, and sequences may be longer than in training.

    `buckets`: how many there are, an even number; a quarter of them are of single distances, in each direction.
    `max_distance`: from this distance on, in tokens, all share the last bucket. `per_layer`: whether each layer has its
    own numbers; otherwise all layers share them, as in the paper.

        [model.positions]
        is = "relative_bias"
        buckets = 32
    """

    unsupported: ClassVar[frozenset[str]] = frozenset({"offset_patterns"})

    buckets: int = 32
    max_distance: int = 128
    per_layer: bool = False

    def __post_init__(self) -> None:
        check_at_least(self, 4, "buckets")
        if self.buckets % 2:
            raise SettingsError(f"buckets = {self.buckets}: must be even, half of them for each direction.")
        if self.max_distance <= self.buckets // 4:
            raise SettingsError(
                f"max_distance = {self.max_distance}: must be more than the {self.buckets // 4} distances that have a "
                "bucket each (a quarter of buckets)."
            )

    @property
    def kinds(self) -> frozenset[PositionKind]:
        return frozenset({"bias"})

    @property
    def has_layer_weights(self) -> bool:
        return self.per_layer

    def cost(self, shape: Shape, length: float) -> Cost:
        """No product. The gradient needs the attention weights, which are kept for long sequences too."""
        return Cost(0.0, shape.heads * length if length > KEPT_WITHOUT_BIAS else 0.0)

    def layer_incompatibility(self, model: Shape, layer: Shape) -> str | None:
        if layer.heads in (0, model.heads):
            return None
        return f"has numbers for {model.heads} heads, and a layer has {layer.heads}."

    def build(self, shape: Shape) -> PositionsModule:
        return _RelativeBiasModule(self, shape)


class _RelativeBiasModule(PositionsModule):
    def __init__(self, settings: RelativeBias, shape: Shape) -> None:
        super().__init__()
        self.settings = settings
        self.table = EmbeddingTable(settings.buckets * (shape.depth if settings.per_layer else 1), shape.heads)

    def bias(self, layout: Layout, shape: Shape) -> Tensor | None:
        check_no_gaps(layout, "relative_bias")
        settings = self.settings
        index = _buckets(layout, settings.buckets, settings.max_distance)
        if settings.per_layer and shape.layer is not None:
            index = index + shape.layer * settings.buckets
        return F.embedding(index, self.table.weight).T


def _buckets(layout: Layout, buckets: int, max_distance: int) -> Tensor:
    """The bucket of each distance key - query, (2R - 1,), computed once per batch."""
    key = (RelativeBias, buckets, max_distance)
    if key not in layout.memo:
        distance = torch.arange(1 - layout.max_seqlen, layout.max_seqlen, device=layout.cu_seqlens.device)
        half, exact, far = buckets // 2, buckets // 4, distance.abs()
        logarithm = torch.log(far.clamp(min=1).float() / exact) / math.log(max_distance / exact)
        shared = (exact + (logarithm * (half - exact)).long()).clamp(max=half - 1)
        layout.memo[key] = torch.where(far < exact, far, shared) + half * (distance > 0)
    index: Tensor = layout.memo[key]
    return index
