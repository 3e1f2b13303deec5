"""Pooling: the hidden states of a sequence to one vector.

Shapes: T tokens of a packed batch, B sequences, H width.
"""

from __future__ import annotations

import abc

from torch import Tensor, nn

from encodery.base.parts import Part
from encodery.model.shape import Batch, Output, Shape


class PoolingModule(nn.Module):
    """`keep_layers`: whether `forward` needs `output.layers`."""

    keep_layers: bool = False

    @abc.abstractmethod
    def forward(self, output: Output, batch: Batch) -> Tensor:
        """Hidden states (T, H) of the batch → (B, H), in the order of its sequences."""


class Pooling(Part):
    """How a sequence of hidden states becomes one vector."""

    @abc.abstractmethod
    def build(self, shape: Shape) -> PoolingModule:
        """The module; it has weights only where the part needs them."""
