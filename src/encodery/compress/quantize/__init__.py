"""Quantisation: the model is trained with the arithmetic of few bits in which it will run."""

from __future__ import annotations

import abc

from torch import Tensor

from encodery.base.parts import Part
from encodery.model.weights import Linear, ReplacedLinear


class Quantization(Part):
    """A number format of linear layers."""

    @abc.abstractmethod
    def build(self, layer: Linear) -> QuantizedLinear:
        """A layer with the same weight and bias that computes in this format."""


class QuantizedLinear(ReplacedLinear, abc.ABC):
    """A linear layer that computes with rounded numbers, while its weight and bias stay in fp32.

    Gradients pass through the rounding as if it were not there (the straight-through estimator, arXiv:1308.3432).
    """

    @abc.abstractmethod
    def rounded_weight(self) -> Tensor:
        """The weight (O, I) with which the layer computes."""

    def merged(self) -> tuple[Tensor, Tensor | None]:
        """See `ReplacedLinear`: the rounded weight. Inputs are not rounded by a plain layer."""
        return self.rounded_weight(), self.bias
