"""Initial weights of linear layers and embedding tables. Weights of norms start at one, biases at zero."""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn

from encodery.base.parts import Part
from encodery.model.shape import Shape
from encodery.model.weights import EmbeddingTable, Linear, Role


class Init(Part):
    """A rule for the initial weights."""

    @abc.abstractmethod
    def fill(self, weight: Tensor, role: Role, shape: Shape, generator: torch.Generator) -> None:
        """Fill `weight` in place: (out, in) of a linear layer, or (V, E) of a table, whose role is "embedding"."""

    def apply(self, module: nn.Module, shape: Shape, generator: torch.Generator) -> None:
        """Fill every linear layer and every table in `module`, in the order of its modules."""
        with torch.no_grad():
            for inner in module.modules():
                if isinstance(inner, Linear | EmbeddingTable):
                    self.fill(inner.weight, inner.role, shape, generator)
                if isinstance(inner, Linear) and inner.bias is not None:
                    inner.bias.zero_()
