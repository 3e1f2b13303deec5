"""Pattern: another attention in each layer, in turn.

Differs from `masks.pattern`: the kind of attention differs between layers, not only its reach.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from encodery.model.attention import Attention, AttentionModule
from encodery.model.cost import Cost
from encodery.model.layer_pattern import SHARED, check_pattern, part_of_layer
from encodery.model.memory import CrossAttention
from encodery.model.positions import Positions
from encodery.model.shape import Shape


@dataclass(frozen=True, kw_only=True)
class AttentionPattern(Attention):
    """Use it to mix kinds of attention in one model. `of`: layer i gets entry i modulo their number.

    [model.attention]
    is = "pattern"
    of = ["full", {is = "full", bias = false}]
    """

    of: tuple[Attention, ...]

    def __post_init__(self) -> None:
        check_pattern(self.of)

    def build(self, shape: Shape) -> AttentionModule:
        return part_of_layer(self.of, shape.layer).build(shape)

    def build_cross(self, shape: Shape) -> CrossAttention:
        return part_of_layer(self.of, shape.layer).build_cross(shape)

    def cost(self, shape: Shape, length: float) -> Cost:
        return part_of_layer(self.of, shape.layer).cost(shape, length)

    def incompatibility(self, shape: Shape, positions: Positions) -> str | None:
        if shape.layer is None and len(set(self.of)) > 1:
            return SHARED
        return part_of_layer(self.of, shape.layer).incompatibility(shape, positions)

    def without_dropout(self) -> AttentionPattern:
        return dataclasses.replace(self, of=tuple(part.without_dropout() for part in self.of))
