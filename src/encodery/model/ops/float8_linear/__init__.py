"""Linear layers whose three products, forward and backward, multiply 8-bit floats. arXiv:2209.05433

Operands are scaled to the range of their format and rounded: weights and inputs to e4m3 (4 bits of exponent, 3 of
mantissa), gradients to e5m2, which is less precise and represents smaller numbers. The scale is that of the whole
tensor and is computed in each step, so nothing is kept between steps; weights and their updates stay in fp32.

Both implementations have `product(left, right, dtype, fast)` of two `Float8Matrix`. `naive` converts them to fp32 and
multiplies, on any device, and is the reference; `scaled` uses the hardware (NVIDIA from compute capability 8.9 on; not
run on one yet). `linear` is the layer. Shapes: T tokens, I inputs, O outputs of a layer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FORWARD, BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2
MULTIPLE = 16
"""The hardware needs matrices whose sizes are multiples of this."""


class Float8Matrix(NamedTuple):
    """A matrix, as `values` in 8 bits times `scale`, a scalar in fp32."""

    values: Tensor
    scale: Tensor


def to_float8(x: Tensor, dtype: torch.dtype) -> Float8Matrix:
    """Convert `x` to 8 bits, scaled so that its largest magnitude is the largest number of `dtype`.

    Values that are not finite stay so, and zeros stay zero.
    """
    largest = x.detach().abs().amax().float()
    scale = torch.where(largest == 0, torch.ones_like(largest), largest / torch.finfo(dtype).max)
    return Float8Matrix((x.detach() / scale).to(dtype), scale)
