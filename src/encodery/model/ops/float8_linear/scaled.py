"""The product of two 8-bit matrices in the tensor cores of Hopper and later GPUs."""

from __future__ import annotations

import torch
from torch import Tensor

from encodery.model.ops.float8_linear import Float8Matrix


def product(left: Float8Matrix, right: Float8Matrix, dtype: torch.dtype, fast: bool = False) -> Tensor:
    """left (M, K) by right (K, N) → (M, N) in `dtype`; K and N multiples of 16. `fast` sums with the precision of
    the tensor core instead of that of fp32, which is enough if nothing is added up afterwards."""
    result: Tensor = torch._scaled_mm(
        left.values.contiguous(),
        right.values.t().contiguous().t(),  # The hardware reads columns.
        scale_a=left.scale,
        scale_b=right.scale,
        out_dtype=dtype,
        use_fast_accum=fast,
    )
    return result
