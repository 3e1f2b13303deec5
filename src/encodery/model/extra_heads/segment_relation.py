"""Head of the relation of two segments: BERT's pooler over the first token, then one score for each relation.

arXiv:1810.04805. Shapes: T tokens, B sequences, H width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from encodery.base.settings import check_at_least
from encodery.model.extra_heads import ExtraHead, ExtraHeadModule
from encodery.model.norms import Norm
from encodery.model.shape import Layout, Shape
from encodery.model.weights import Linear


@dataclass(frozen=True, kw_only=True)
class SegmentRelationHead(ExtraHead):
    """Use it with the objective `segment_relation`: a dense layer, tanh and a score for each of `relations`.

    [model]
    extra_heads = ["segment_relation"]
    """

    relations: int = 2

    def __post_init__(self) -> None:
        check_at_least(self, 2, "relations")

    def build(self, shape: Shape, norm: Norm) -> ExtraHeadModule:
        return _SegmentRelationModule(self, shape)

    def fraction(self, length: float) -> float:
        return 1 / length


class _SegmentRelationModule(ExtraHeadModule):
    def __init__(self, settings: SegmentRelationHead, shape: Shape) -> None:
        super().__init__()
        self.dense = Linear(shape.width, shape.width, bias=True)
        self.score = Linear(shape.width, settings.relations, bias=True)

    def forward(self, hidden: Tensor, layout: Layout) -> Tensor:
        first = hidden[layout.cu_seqlens[:-1].long()]
        scores: Tensor = self.score(self.dense(first).tanh())
        return scores
