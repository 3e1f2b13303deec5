"""A linear layer by products of 8-bit floats; see the family's file for formats and scales."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from encodery.model.ops.float8_linear import BACKWARD, FORWARD, MULTIPLE, Float8Matrix, naive, scaled, to_float8


def supports(weight: Tensor) -> bool:
    """Whether a weight (O, I) has the sizes that the hardware multiplies."""
    return weight.ndim == 2 and not any(size % MULTIPLE for size in weight.shape)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (..., I), weight (O, I), bias (O,) → (..., O) in the dtype of products: autocast's where it is on."""
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    rows = x.reshape(-1, x.shape[-1])
    count = len(rows)
    if count % MULTIPLE:  # the tokens are summed over going backward
        rows = F.pad(rows, (0, 0, 0, -count % MULTIPLE))
    with torch.autocast(kind, enabled=False):
        y: Tensor = _Float8.apply(rows, weight, dtype)[:count]  # type: ignore[no-untyped-call]
        y = y if bias is None else y + bias.to(dtype)
    return y.view(*x.shape[:-1], weight.shape[0])


class _Float8(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.dtypes = x.dtype, weight.dtype, dtype
        narrow_x, narrow_weight = to_float8(x, FORWARD), to_float8(weight, FORWARD)
        ctx.save_for_backward(*narrow_x, *narrow_weight)
        return _product(narrow_x, _turned(narrow_weight), dtype, fast=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        saved, (x_dtype, weight_dtype, dtype) = ctx.saved_tensors, ctx.dtypes
        x, weight = Float8Matrix(*saved[:2]), Float8Matrix(*saved[2:])
        back, to_x, to_weight = to_float8(grad, BACKWARD), None, None
        if ctx.needs_input_grad[0]:
            to_x = _product(back, weight, dtype).to(x_dtype)
        if ctx.needs_input_grad[1]:
            to_weight = _product(_turned(back), x, dtype).to(weight_dtype)
        return to_x, to_weight, None


def _turned(matrix: Float8Matrix) -> Float8Matrix:
    return Float8Matrix(matrix.values.t(), matrix.scale)


def _product(left: Float8Matrix, right: Float8Matrix, dtype: torch.dtype, fast: bool = False) -> Tensor:
    """By the device's tensor cores; the plain way elsewhere."""
    way = scaled if left.values.is_cuda else naive
    found: Tensor = way.product(left, right, dtype, fast)
    return found
