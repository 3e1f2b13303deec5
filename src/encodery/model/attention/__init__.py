"""How tokens of one document look at each other."""

from __future__ import annotations

import abc

from torch import Tensor, nn

from encodery.base.parts import Part
from encodery.model.positions import PositionsModule
from encodery.model.shape import Layout, Shape


class Attention(Part):
    """A way of mixing tokens. Each document by itself: no token ever sees another document."""

    @abc.abstractmethod
    def build(self, shape: Shape) -> AttentionModule:
        """The module of layer `shape.layer`, which sees `shape.window` neighbours on either side (None: all)."""

    def undropped(self) -> Attention:
        """The same without dropout of attention weights."""
        return self


class AttentionModule(nn.Module):
    """The mixing module of one layer."""

    @abc.abstractmethod
    def forward(self, x: Tensor, layout: Layout, positions: PositionsModule) -> Tensor:
        """x (T, H) → (T, H), a fresh tensor."""
