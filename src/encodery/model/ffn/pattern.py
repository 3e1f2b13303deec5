"""Pattern: another feed-forward layer in each layer, in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from encodery.model.cost import Cost
from encodery.model.ffn import FFN
from encodery.model.layer_pattern import SHARED, check_pattern, part_of_layer
from encodery.model.shape import Shape


@dataclass(frozen=True, kw_only=True)
class FFNPattern(FFN):
    """Use it to mix kinds of feed-forward layers in one model. `of`: layer i gets entry i modulo their number.

    [model.ffn]
    is = "pattern"
    of = ["mlp", "glu"]
    """

    unsupported: ClassVar[frozenset[str]] = frozenset({"bias_settings"})

    of: tuple[FFN, ...]

    def __post_init__(self) -> None:
        check_pattern(self.of)

    def build(self, shape: Shape) -> nn.Module:
        return part_of_layer(self.of, shape.layer).build(shape)

    def cost(self, shape: Shape) -> Cost:
        return part_of_layer(self.of, shape.layer).cost(shape)

    def incompatibility(self, shape: Shape) -> str | None:
        if shape.layer is None and len(set(self.of)) > 1:
            return SHARED
        return part_of_layer(self.of, shape.layer).incompatibility(shape)
