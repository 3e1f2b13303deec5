"""Linear layers and embedding tables that leave their values to `Init`, and activations by name."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encodery.model.ops.float8_linear import linear as float8

Role = Literal["embedding", "in", "out"]
ActivationName = Literal["gelu", "gelu_tanh", "silu", "relu", "relu_squared", "identity"]


class LinearLayer(nn.Linear, abc.ABC):
    """A linear layer of an encoder; abstract. `role` is for `Init`: "out" writes into the residual stream."""

    def __init__(self, size_in: int, size_out: int, *, bias: bool, role: Role = "in") -> None:
        super().__init__(size_in, size_out, bias=bias)
        self.role: Role = role

    def reset_parameters(self) -> None:
        """Does nothing: `Init` fills every weight once, from the model's own generator."""


class Linear(LinearLayer):
    """A linear layer that computes with its weight and bias only.

    `float8`: whether products are computed in 8-bit floats during training.
    """

    float8: bool = False

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) → (..., O)."""
        return float8.linear(x, self.weight, self.bias) if self.float8 else super().forward(x)


class ReplacedLinear(LinearLayer, abc.ABC):
    """A layer in the place of a plain one that computes with more than its weight; abstract.

    Weight and bias are those of `layer` and keep their names.
    """

    def __init__(self, layer: Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.role = layer.in_features, layer.out_features, layer.role
        self.weight, self.bias = layer.weight, layer.bias

    @abc.abstractmethod
    def merged(self) -> tuple[Tensor, Tensor | None]:
        """Return the weight (O, I) and the bias (O,) of the plain layer that computes the same."""

    def to_linear(self) -> Linear:
        """Return that plain layer, on the device of the weight."""
        with torch.no_grad():
            weight, bias = self.merged()
            layer = Linear(self.in_features, self.out_features, bias=bias is not None, role=self.role)
            layer.weight = nn.Parameter(weight.detach().clone())
            if bias is not None:
                layer.bias = nn.Parameter(bias.detach().clone())
        return layer.train(self.training)


class EmbeddingTable(nn.Embedding):
    """An embedding table (entries, size)."""

    role: Role = "embedding"

    def reset_parameters(self) -> None:
        """Does nothing: `Init` fills every weight once, from the model's own generator."""


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _relu_squared(x: Tensor) -> Tensor:
    return F.relu(x).square()


def _identity(x: Tensor) -> Tensor:
    return x


_ACTIVATIONS: dict[ActivationName, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": F.silu,
    "relu": F.relu,
    "relu_squared": _relu_squared,
    "identity": _identity,
}


def activation(name: ActivationName) -> Callable[[Tensor], Tensor]:
    """The elementwise function of that name; `gelu` is the exact one, not the tanh approximation."""
    return _ACTIVATIONS[name]
