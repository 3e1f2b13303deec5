"""Attention: how the tokens of a document exchange information."""

from __future__ import annotations

import abc

from torch import Tensor, nn

from encodery.base.parts import Part
from encodery.model.cost import Cost
from encodery.model.head_weights import HeadWeights
from encodery.model.memory import CrossAttention
from encodery.model.positions import Positions, PositionsModule
from encodery.model.shape import Layout, Shape


class Attention(Part):
    """A kind of attention. Documents are independent: no token ever attends to another document."""

    @abc.abstractmethod
    def build(self, shape: Shape) -> AttentionModule:
        """The module of layer `shape.layer`. A token attends to the tokens within `shape.reach`."""

    def build_cross(self, shape: Shape) -> CrossAttention:
        """The attention of layer `shape.layer` to a memory, which has no positions and no limit of reach."""
        return CrossAttention(shape)

    @abc.abstractmethod
    def cost(self, shape: Shape, length: float) -> Cost:
        """What the attention of a layer costs, projections included, in sequences of `length` tokens (Σ L² / Σ L if
        they differ); `shape.reach` is its reach."""

    def incompatibility(self, shape: Shape, positions: Positions) -> str | None:
        """Why this attention cannot be used in a layer of `shape` and its reach, with these positions; None if it can.

        The reason completes the sentence "attention = 'full': ...". By default an attention computes with whatever the
        positions module adds, rotates and adds to scores, and within any reach.
        """
        return None

    def without_dropout(self) -> Attention:
        """The same attention without dropout of attention weights."""
        return self


class AttentionModule(nn.Module):
    """The attention of one layer, whose sizes are `shape`. Abstract."""

    shape: Shape

    @abc.abstractmethod
    def forward(self, x: Tensor, layout: Layout, positions: PositionsModule) -> Tensor:
        """x (T, H) → (T, H), a new tensor."""

    def head_weights(self) -> list[HeadWeights]:
        """The weights of each head; empty if there are none, then the part names `head_weights` in `unsupported`."""
        return []
