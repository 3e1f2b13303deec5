"""Disentangled attention: scores also have products of tokens with embeddings of distances. arXiv:2006.03654

The layers share one table of embeddings of distances. A layer projects them like its inputs, to keys that are
multiplied with the queries of tokens ("c2p", content to position) and to queries that are multiplied with their keys
("p2c"). Large distances share embeddings in buckets that grow with their logarithm, as in DeBERTa's second version.
Differs from `relative_bias`: what is added depends on the tokens too. Embeddings of distances have no dropout.
Shapes: T tokens, H width, N heads, D head size, R longest sequence of the batch, P embeddings of distances that occur.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.base.settings import check_at_least
from encodery.model.cost import Cost
from encodery.model.norms import Norm
from encodery.model.ops.relative_attention import RelativeTerms
from encodery.model.positions import PositionKind, Positions, PositionsModule, check_no_gaps
from encodery.model.shape import Layout, Shape
from encodery.model.weights import EmbeddingTable, Linear

Product = Literal["c2p", "p2c"]
KEPT_WITHOUT_PRODUCTS = 512
"""Longest sequence whose attention weights the CPU keeps in any case; with these positions all are kept."""


@dataclass(frozen=True, kw_only=True)
class DisentangledPositions(Positions):
    """Use it for the attention of DeBERTa; it costs up to three times the scores of plain attention.

    `buckets`: how many embeddings there are in each direction, of which half are of single distances; null gives every
    distance its own. `max_distance`: from this distance on, in tokens, all share the last embedding. `products`: which
    are added. `shared_projections`: whether a layer projects the embeddings like its inputs; otherwise with weights for
    each layer, as the first version of DeBERTa. `norm`: a norm of the embeddings, null for none.

        [model.positions]
        is = "disentangled"
        norm = "layer"
    """

    unsupported: ClassVar[frozenset[str]] = frozenset({"offset_patterns"})

    buckets: int | None = 256
    max_distance: int = 512
    products: tuple[Product, ...] = ("c2p", "p2c")
    shared_projections: bool = True
    norm: Norm | None = None

    def __post_init__(self) -> None:
        check_at_least(self, 4, "buckets")
        check_at_least(self, 1, "max_distance")
        if self.buckets is not None and self.max_distance < self.buckets // 2 + 2:
            raise SettingsError(
                f"max_distance = {self.max_distance}: must be at least {self.buckets // 2 + 2}, two more than the "
                "distances that have an embedding each (half of buckets)."
            )
        if not self.products or len(set(self.products)) < len(self.products):
            raise SettingsError(f"products = {list(self.products)}: give c2p, p2c or both, each once.")

    @property
    def kinds(self) -> frozenset[PositionKind]:
        return frozenset({"relative"})

    @property
    def has_layer_weights(self) -> bool:
        return not self.shared_projections

    @property
    def span(self) -> int:
        """How many embeddings there are in each direction."""
        return self.max_distance if self.buckets is None else self.buckets

    def cost(self, shape: Shape, length: float) -> Cost:
        """Products with every embedding of a distance that occurs. Their projection, once per batch, is not counted."""
        occurring = min(2 * int(_buckets(self, max(round(length), 1))[-1]) + 1, 2 * self.span)
        products = 2.0 * len(self.products) * shape.heads * shape.head_size * occurring
        return Cost(products, shape.heads * length if length > KEPT_WITHOUT_PRODUCTS else 0.0)

    def layer_incompatibility(self, model: Shape, layer: Shape) -> str | None:
        if self.shared_projections or layer.heads in (0, model.heads):
            return None
        return f"has projections for {model.heads} heads, and a layer has {layer.heads}."

    def build(self, shape: Shape) -> PositionsModule:
        return _DisentangledModule(self, shape)


class _DisentangledModule(PositionsModule):
    def __init__(self, settings: DisentangledPositions, shape: Shape) -> None:
        super().__init__()
        self.settings = settings
        self.table = EmbeddingTable(2 * settings.span, shape.width)
        self.norm = nn.Identity() if settings.norm is None else settings.norm.build(shape.width)
        own = () if settings.shared_projections else settings.products
        sizes = (shape.width, shape.heads * shape.head_size)
        # A bias of a key of distances adds the same to all scores of a query, so it would change nothing.
        self.keys = nn.ModuleList(Linear(*sizes, bias=False) for _ in range(shape.depth if "c2p" in own else 0))
        self.queries = nn.ModuleList(Linear(*sizes, bias=True) for _ in range(shape.depth if "p2c" in own else 0))

    def relative_terms(self, project: Callable[[Tensor], Tensor], layout: Layout, shape: Shape) -> RelativeTerms | None:
        check_no_gaps(layout, "disentangled")
        index, occurring = self._index(layout)
        embeddings = self.norm(self.table.weight[occurring])
        sizes, products = (-1, shape.heads, shape.head_size), self.settings.products
        if self.settings.shared_projections:
            query, key, _ = project(embeddings).view(-1, 3, *sizes[1:]).unbind(1)
            return RelativeTerms(index, key if "c2p" in products else None, query if "p2c" in products else None)
        assert shape.layer is not None
        own_key = self.keys[shape.layer](embeddings).view(sizes) if "c2p" in products else None
        own_query = self.queries[shape.layer](embeddings).view(sizes) if "p2c" in products else None
        return RelativeTerms(index, own_key, own_query)

    def _index(self, layout: Layout) -> tuple[Tensor, slice]:
        """The embedding of each distance (2R - 1,), counted from the first that occurs, and those that occur; computed
        once per batch. The embeddings are in the order of query - key."""
        key = (self.settings, "index")
        if key not in layout.memo:
            span = self.settings.span
            index = (span - _buckets(self.settings, layout.max_seqlen)).clamp(0, 2 * span - 1)
            occurring = slice(0, 2 * span)
            if not torch.compiler.is_compiling():
                occurring = slice(int(index[-1]), int(index[0]) + 1)
            layout.memo[key] = ((index - occurring.start).to(layout.cu_seqlens.device), occurring)
        memo: tuple[Tensor, slice] = layout.memo[key]
        return memo


def _buckets(settings: DisentangledPositions, longest: int) -> Tensor:
    """The signed bucket of each distance key - query (2R - 1,) int64, for R = `longest`, on the CPU."""
    distance = torch.arange(1 - longest, longest, device="cpu")
    if settings.buckets is None:
        return distance
    exact = settings.buckets // 2
    far = distance.abs().clamp(min=exact).float()
    logarithm = torch.log(far / exact) / math.log((settings.max_distance - 1) / exact)
    shared = torch.ceil(logarithm * (exact - 1)).long() + exact
    return torch.where(distance.abs() <= exact, distance, shared * distance.sign())
