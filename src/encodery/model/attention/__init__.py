"""How tokens of one document look at each other."""

from __future__ import annotations

import abc
from dataclasses import dataclass

from torch import Tensor, nn

from encodery.base.parts import Part
from encodery.model.positions import OffsetPattern, PositionsModule
from encodery.model.shape import Layout, Shape


class Attention(Part):
    """A way of mixing tokens. Each document by itself: no token ever sees another document."""

    @abc.abstractmethod
    def build(self, shape: Shape) -> AttentionModule:
        """The module of layer `shape.layer`, which sees `shape.window` neighbours on either side (None: all)."""

    def without_dropout(self) -> Attention:
        """The same without dropout of attention weights."""
        return self


@dataclass(frozen=True)
class HeadWeights:
    """What one head learns, as views: `query`, `key`, `value` (D, H), `out` (H, D), biases (D,) where there are any."""

    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor
    query_bias: Tensor | None = None
    key_bias: Tensor | None = None

    def load_offset_pattern(self, pattern: OffsetPattern) -> bool:
        """Look there from now on, in place; False, and nothing changed, where that takes biases and there are none."""
        if pattern.biases is not None:
            if self.query_bias is None or self.key_bias is None:
                return False
            self.query_bias.copy_(pattern.biases[0])
            self.key_bias.copy_(pattern.biases[1])
        if pattern.weights is not None:
            self.query.copy_(pattern.weights[0])
            self.key.copy_(pattern.weights[1])
        return True


class AttentionModule(nn.Module):
    """The mixing module of one layer, whose sizes are `shape`."""

    shape: Shape

    @abc.abstractmethod
    def forward(self, x: Tensor, layout: Layout, positions: PositionsModule) -> Tensor:
        """x (T, H) → (T, H), a fresh tensor."""

    def head_weights(self) -> list[HeadWeights]:
        """The weights of single heads; none where there are no such."""
        return []
