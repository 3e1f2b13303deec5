"""Quantisation: the model is trained with the arithmetic of few bits in which it will run."""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn

from encodery.base.parts import Part
from encodery.model.weights import Linear, LinearLayer


class Quantization(Part):
    """A number format of linear layers."""

    @abc.abstractmethod
    def build(self, layer: Linear) -> QuantizedLinear:
        """A layer with the same weight and bias that computes in this format."""


class QuantizedLinear(LinearLayer, abc.ABC):
    """A linear layer that computes with rounded numbers; weight and bias keep their names and stay in fp32.

    Gradients pass through the rounding as if it were not there (the straight-through estimator, arXiv:1308.3432).
    """

    def __init__(self, layer: Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.role = layer.in_features, layer.out_features, layer.role
        self.weight, self.bias = layer.weight, layer.bias

    @abc.abstractmethod
    def rounded_weight(self) -> Tensor:
        """The weight (O, I) with which the layer computes."""

    def to_linear(self) -> Linear:
        """A plain layer with the rounded weight."""
        layer = Linear(self.in_features, self.out_features, bias=self.bias is not None, role=self.role)
        with torch.no_grad():
            layer.weight = nn.Parameter(self.rounded_weight().detach().clone())
            if self.bias is not None:
                layer.bias = nn.Parameter(self.bias.detach().clone())
        return layer.to(self.weight.device).train(self.training)
