"""Pooling: the hidden states of a sequence to one vector.

Shapes: T tokens of a packed batch, B sequences, H width.
"""

from __future__ import annotations

import abc

from torch import Tensor, nn

from encodery.base.parts import Part
from encodery.model.shape import Batch, Output, Shape


class PoolingModule(nn.Module):
    """Pools a batch. `keep_layers`: `forward` needs `output.layers`, the hidden states of every layer."""

    keep_layers: bool = False

    @abc.abstractmethod
    def forward(self, output: Output, batch: Batch) -> Tensor:
        """Hidden states (T, H) of the batch → (B, H) float32, in the order of its sequences."""


class Pooling(Part):
    """How the hidden states of a sequence become one vector."""

    @abc.abstractmethod
    def build(self, shape: Shape) -> PoolingModule:
        """The module, with weights only if the part needs them."""
