"""Blocks: the order in which a layer applies attention, feed-forward, norms and residual connections."""

from __future__ import annotations

import abc

from torch import nn

from encodery.base.parts import Part
from encodery.model.attention import Attention
from encodery.model.blocks._module import ActivationCheckpointing, BlockModule, set_activation_checkpointing
from encodery.model.ffn import FFN
from encodery.model.norms import Norm
from encodery.model.shape import Shape

__all__ = ["ActivationCheckpointing", "Block", "BlockModule", "set_activation_checkpointing"]


class Block(Part):
    """A layer made of an attention, a feed-forward and norms, which are given to it."""

    @abc.abstractmethod
    def build(self, shape: Shape, *, attention: Attention, ffn: FFN, norm: Norm, dropout: float) -> BlockModule:
        """The module of layer `shape.layer`; `dropout` is that of the outputs of attention and feed-forward."""

    def final(self, shape: Shape, norm: Norm) -> nn.Module:
        """What follows the last block, (T, H) → (T, H)."""
        return nn.Identity()

    def incompatibility(self, shape: Shape) -> str | None:
        """Why it cannot be used in a layer of `shape`; None if it can. Completes the sentence "block = 'pre': ..."."""
        return None
