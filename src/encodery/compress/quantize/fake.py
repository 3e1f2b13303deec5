"""Fake quantisation: linear layers compute with numbers rounded to few bits, so that the weights adapt to rounding.

arXiv:1910.06188 (Q8BERT). Numbers are rounded to a symmetric grid of 2^bits - 1 values: weights by the largest value of
each output, inputs by the largest value of each token, as the engine `packed_int8` does. Differs from the paper: it
has one range for a whole matrix and a moving average of the ranges of inputs, and rounds the embeddings too. Shapes: O
outputs and I inputs of a layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.base.settings import check_interval
from encodery.compress.quantize import Quantization, QuantizedLinear
from encodery.model.weights import Linear


@dataclass(frozen=True, kw_only=True)
class FakeQuantization(Quantization):
    """Use it if a model loses quality in `packed_int8`, or for weights of fewer than 8 bits.

    `bits` of the weights, `input_bits` of what they are multiplied with (null: inputs are not rounded).

        encodery compress RUN --out int8 quantize.is=fake quantize.bits=8
    """

    bits: int = 8
    input_bits: int | None = 8

    def __post_init__(self) -> None:
        check_interval(self, "2 <= x <= 16", "bits", "input_bits")

    def build(self, layer: Linear) -> QuantizedLinear:
        return _FakeQuantizedLinear(layer, self)


class _FakeQuantizedLinear(QuantizedLinear):
    def __init__(self, layer: Linear, settings: FakeQuantization) -> None:
        super().__init__(layer)
        self.settings = settings

    def rounded_weight(self) -> Tensor:
        return _rounded(self.weight, self.settings.bits)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) → (..., O)."""
        inputs = x if self.settings.input_bits is None else _rounded(x, self.settings.input_bits)
        return F.linear(inputs, self.rounded_weight(), self.bias)


def _rounded(x: Tensor, bits: int) -> Tensor:
    """Round to the grid of the largest value of each row; the gradient is that of `x`."""
    rounded: Tensor = _StraightThrough.apply(x, 2 ** (bits - 1) - 1)  # type: ignore[no-untyped-call]
    return rounded


class _StraightThrough(torch.autograd.Function):
    """Rounding whose gradient is 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, levels: int) -> Tensor:
        wide = x.float()
        scale = wide.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / levels
        return ((wide / scale).round() * scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None
