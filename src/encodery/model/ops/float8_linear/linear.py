"""A linear layer with products in 8-bit floats; `__init__.py` describes formats and scales."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from encodery.model.ops.float8_linear import BACKWARD, FORWARD, MULTIPLE, Float8Matrix, naive, scaled, to_float8


def supports(weight: Tensor) -> bool:
    """Whether the hardware can multiply a weight (O, I) of these sizes."""
    return weight.ndim == 2 and not any(size % MULTIPLE for size in weight.shape)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (..., I), weight (O, I), bias (O,) → (..., O), in the dtype of products (under autocast: its dtype)."""
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    flat = x.reshape(-1, x.shape[-1])
    count = len(flat)
    if count % MULTIPLE:  # The backward pass sums over tokens.
        flat = F.pad(flat, (0, 0, 0, -count % MULTIPLE))
    with torch.autocast(kind, enabled=False):
        y: Tensor = _Float8.apply(flat, weight, dtype)[:count]  # type: ignore[no-untyped-call]
        y = y if bias is None else y + bias.to(dtype)
    return y.view(*x.shape[:-1], weight.shape[0])


class _Float8(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.dtypes = x.dtype, weight.dtype, dtype
        x8, weight8 = to_float8(x, FORWARD), to_float8(weight, FORWARD)
        ctx.save_for_backward(*x8, *weight8)
        return _product(x8, _transposed(weight8), dtype, fast=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        saved, (x_dtype, weight_dtype, dtype) = ctx.saved_tensors, ctx.dtypes
        x, weight = Float8Matrix(*saved[:2]), Float8Matrix(*saved[2:])
        grad8, grad_x, grad_weight = to_float8(grad, BACKWARD), None, None
        if ctx.needs_input_grad[0]:
            grad_x = _product(grad8, weight, dtype).to(x_dtype)
        if ctx.needs_input_grad[1]:
            grad_weight = _product(_transposed(grad8), x, dtype).to(weight_dtype)
        return grad_x, grad_weight, None


def _transposed(matrix: Float8Matrix) -> Float8Matrix:
    return Float8Matrix(matrix.values.t(), matrix.scale)


def _product(left: Float8Matrix, right: Float8Matrix, dtype: torch.dtype, fast: bool = False) -> Tensor:
    """Multiply in the tensor cores on CUDA, otherwise with the reference implementation."""
    implementation = scaled if left.values.is_cuda else naive
    product: Tensor = implementation.product(left, right, dtype, fast)
    return product
