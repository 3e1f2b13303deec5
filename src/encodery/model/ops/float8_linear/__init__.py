"""Linear layers whose three products, forward and backward, multiply 8-bit floats (arXiv:2209.05433).

What is multiplied is scaled to the range of its format and rounded: weights and inputs to e4m3 (4 bits of exponent, 3
of mantissa), gradients to e5m2, which has less precision and reaches further down. The scale is that of the whole
tensor, found anew in each step, so nothing is kept between steps; weights and their updates stay in fp32.

Both files offer `product(left, right, dtype, fast)` of two `Scaled` matrices. `naive` widens them and multiplies, on
any device, and is the truth; `scaled` leaves it to the hardware (NVIDIA from compute capability 8.9 on; not run on one
yet). `linear` makes a layer of them. Shapes: T tokens, I inputs, O outputs of a layer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FORWARD, BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2
MULTIPLE = 16  # of both sizes of a matrix, for the hardware


class Float8Matrix(NamedTuple):
    """A matrix as `values` in 8 bits times `scale`, one number in fp32."""

    values: Tensor
    scale: Tensor


def to_float8(x: Tensor, kind: torch.dtype) -> Float8Matrix:
    """`x` in 8 bits, its largest magnitude at the end of the range. What is not finite stays so, zeros stay zero."""
    largest = x.detach().abs().amax().float()
    scale = torch.where(largest == 0, torch.ones_like(largest), largest / torch.finfo(kind).max)
    return Float8Matrix((x.detach() / scale).to(kind), scale)
