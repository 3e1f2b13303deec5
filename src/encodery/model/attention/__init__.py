"""How tokens of one document look at each other."""

from __future__ import annotations

import abc
from dataclasses import dataclass

from torch import Tensor, nn

from encodery.base.parts import Part
from encodery.model.positions import Aim, PositionsModule
from encodery.model.shape import Layout, Shape


class Attention(Part):
    """A way of mixing tokens. Each document by itself: no token ever sees another document."""

    @abc.abstractmethod
    def build(self, shape: Shape) -> AttentionModule:
        """The module of layer `shape.layer`, which sees `shape.window` neighbours on either side (None: all)."""

    def undropped(self) -> Attention:
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

    def look(self, aim: Aim) -> bool:
        """Look there from now on, in place; False, and nothing changed, where that takes biases and there are none."""
        if aim.biases is not None:
            if self.query_bias is None or self.key_bias is None:
                return False
            self.query_bias.copy_(aim.biases[0])
            self.key_bias.copy_(aim.biases[1])
        if aim.weights is not None:
            self.query.copy_(aim.weights[0])
            self.key.copy_(aim.weights[1])
        return True


class AttentionModule(nn.Module):
    """The mixing module of one layer, whose sizes are `shape`."""

    shape: Shape

    @abc.abstractmethod
    def forward(self, x: Tensor, layout: Layout, positions: PositionsModule) -> Tensor:
        """x (T, H) → (T, H), a fresh tensor."""

    def heads(self) -> list[HeadWeights]:
        """The weights of single heads; none where there are no such."""
        return []
