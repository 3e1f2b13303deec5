"""The product of two 8-bit matrices, computed in fp32: the reference, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from encodery.model.ops.float8_linear import Float8Matrix


def product(left: Float8Matrix, right: Float8Matrix, dtype: torch.dtype, fast: bool = False) -> Tensor:
    """left (M, K) by right (K, N) → (M, N) in `dtype`; summed in fp32. `fast` has no effect here."""
    wide = left.values.float() @ right.values.float()
    return (wide * (left.scale * right.scale)).to(dtype)
