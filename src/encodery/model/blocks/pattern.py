"""Pattern: another order of sublayers, norms and residual sums in each layer, in turn.

What follows the last layer is what the last layer's kind of block puts there.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from encodery.model.attention import Attention
from encodery.model.blocks import Block, BlockModule
from encodery.model.ffn import FFN
from encodery.model.layer_pattern import SHARED, check_pattern, part_of_layer
from encodery.model.norms import Norm
from encodery.model.shape import Shape


@dataclass(frozen=True, kw_only=True)
class BlockPattern(Block):
    """Use it to mix kinds of blocks in one model. `of`: layer i gets entry i modulo their number.

    [model.block]
    is = "pattern"
    of = ["post", "pre"]
    """

    of: tuple[Block, ...]

    def __post_init__(self) -> None:
        check_pattern(self.of)

    def build(self, shape: Shape, *, attention: Attention, ffn: FFN, norm: Norm, dropout: float) -> BlockModule:
        part = part_of_layer(self.of, shape.layer)
        return part.build(shape, attention=attention, ffn=ffn, norm=norm, dropout=dropout)

    def final(self, shape: Shape, norm: Norm) -> nn.Module:
        return part_of_layer(self.of, max(shape.depth - 1, 0)).final(shape, norm)

    def incompatibility(self, shape: Shape) -> str | None:
        if shape.layer is None and len(set(self.of)) > 1:
            return SHARED
        return part_of_layer(self.of, shape.layer).incompatibility(shape)
