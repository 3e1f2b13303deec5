"""Attention: how the tokens of a document exchange information."""

from __future__ import annotations

import abc
from dataclasses import dataclass

from torch import Tensor, nn

from encodery.base.parts import Part
from encodery.model.memory import CrossAttention
from encodery.model.positions import OffsetPattern, PositionsModule
from encodery.model.shape import Layout, Shape


class Attention(Part):
    """A kind of attention. Documents are independent: no token ever attends to another document."""

    @abc.abstractmethod
    def build(self, shape: Shape) -> AttentionModule:
        """The module of layer `shape.layer`. A token attends to the tokens within `shape.reach`."""

    def build_cross(self, shape: Shape) -> CrossAttention:
        """The attention of layer `shape.layer` to a memory, which has no positions and no limit of reach."""
        return CrossAttention(shape)

    def without_dropout(self) -> Attention:
        """The same attention without dropout of attention weights."""
        return self


@dataclass(frozen=True)
class HeadWeights:
    """The weights of one attention head, as views of the module's parameters.

    `query`, `key` and `value` are (D, H), `out` is (H, D), the biases are (D,) or None.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor
    query_bias: Tensor | None = None
    key_bias: Tensor | None = None

    def load_offset_pattern(self, pattern: OffsetPattern) -> bool:
        """Overwrite query and key in place, so that the head attends at a fixed offset.

        Return False, and change nothing, if the pattern needs biases and the head has none.
        """
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
    """The attention of one layer, whose sizes are `shape`. Abstract."""

    shape: Shape

    @abc.abstractmethod
    def forward(self, x: Tensor, layout: Layout, positions: PositionsModule) -> Tensor:
        """x (T, H) → (T, H), a new tensor."""

    def head_weights(self) -> list[HeadWeights]:
        """The weights of each head; empty if there are none, then the part names `head_weights` in `unsupported`."""
        return []
