"""Gated linear unit: one half of `up`, after the activation, is multiplied with the other half. arXiv:2002.05202

Differs from `mlp`: `up` is (2I, H); its first half is the gate (activated), its second half the value.
Shapes: T tokens, H width, I intermediate size.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from encodery.model.cost import Cost
from encodery.model.ffn import FFN
from encodery.model.shape import Shape
from encodery.model.weights import ActivationName, Linear, activation


@dataclass(frozen=True, kw_only=True)
class GLU(FFN):
    """Use it in modern encoders, with `intermediate_size` about two thirds of what `mlp` would get.

    `bias`: whether `up` has a bias; `bias_out`: whether `down` has one.

        [model.ffn]
        is = "glu"
        activation = "gelu"
    """

    activation: ActivationName = "gelu"
    bias: bool = True
    bias_out: bool = True

    def build(self, shape: Shape) -> nn.Module:
        return _GLUModule(self, shape)

    def cost(self, shape: Shape) -> Cost:
        return Cost(2.0 * 3 * shape.width * shape.intermediate_size, shape.width + 4 * shape.intermediate_size)


class _GLUModule(nn.Module):
    def __init__(self, settings: GLU, shape: Shape) -> None:
        super().__init__()
        self.up = Linear(shape.width, 2 * shape.intermediate_size, bias=settings.bias)
        self.down = Linear(shape.intermediate_size, shape.width, bias=settings.bias_out, role="out")
        self.activate = activation(settings.activation)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, dim=-1)
        y: Tensor = self.down(self.activate(gate) * value)
        return y
