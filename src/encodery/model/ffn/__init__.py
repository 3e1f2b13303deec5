"""The feed-forward sublayer of a block, which works on each token separately."""

from __future__ import annotations

import abc

from torch import nn

from encodery.base.parts import Part
from encodery.model.cost import Cost
from encodery.model.shape import Shape


class FFN(Part):
    """A kind of feed-forward layer."""

    @abc.abstractmethod
    def build(self, shape: Shape) -> nn.Module:
        """A module (T, H) → (T, H) with linear layers `up` and `down`; its output is a new tensor."""

    @abc.abstractmethod
    def cost(self, shape: Shape) -> Cost:
        """What the feed-forward layer costs per token."""

    def incompatibility(self, shape: Shape) -> str | None:
        """Why it cannot be used in a layer of `shape`; None if it can. Completes the sentence "ffn = 'mlp': ..."."""
        return None
