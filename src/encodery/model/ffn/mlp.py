"""Multi-layer perceptron: linear map up, activation, linear map down. arXiv:1706.03762

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
class MLP(FFN):
    """Use it for the architecture of BERT and RoBERTa.

    `bias`: whether `up` has a bias; `bias_out`: whether `down` has one.

        [model.ffn]
        is = "mlp"
        activation = "gelu"
    """

    activation: ActivationName = "gelu"
    bias: bool = True
    bias_out: bool = True

    def build(self, shape: Shape) -> nn.Module:
        return _MLPModule(self, shape)

    def cost(self, shape: Shape) -> Cost:
        return Cost(2.0 * 2 * shape.width * shape.intermediate_size, shape.width + 2 * shape.intermediate_size)


class _MLPModule(nn.Module):
    def __init__(self, settings: MLP, shape: Shape) -> None:
        super().__init__()
        self.up = Linear(shape.width, shape.intermediate_size, bias=settings.bias)
        self.down = Linear(shape.intermediate_size, shape.width, bias=settings.bias_out, role="out")
        self.activate = activation(settings.activation)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.activate(self.up(x)))
        return y
