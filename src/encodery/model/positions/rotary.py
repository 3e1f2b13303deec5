"""Rotary positions: queries and keys are rotated by angles proportional to the position. arXiv:2104.09864

Differs from `learned`: relative, and nothing is learned. Channel i is rotated with channel i + D/2 (not with its
neighbour). Local layers may have their own theta (`local_theta`, arXiv:2412.13663).
Shapes: T tokens, N heads, D head size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from encodery.model.head_weights import OffsetPattern
from encodery.model.positions import PositionKind, Positions, PositionsModule
from encodery.model.shape import Layout, Shape


@dataclass(frozen=True, kw_only=True)
class RotaryPositions(Positions):
    """Use it in modern encoders.

    `theta` is that of layers that attend to the whole document, `local_theta` that of layers whose reach is limited on
    both sides (null: the same).

        [model.positions]
        is = "rotary"
        theta = 160000.0
    """

    theta: float = 10_000.0
    local_theta: float | None = None

    @property
    def kinds(self) -> frozenset[PositionKind]:
        return frozenset({"rotation"})

    def build(self, shape: Shape) -> PositionsModule:
        return _RotaryModule(self)

    def incompatibility(self, shape: Shape) -> str | None:
        return f"needs an even head size, not {shape.head_size}." if shape.head_size % 2 else None


class _RotaryModule(PositionsModule):
    def __init__(self, settings: RotaryPositions) -> None:
        super().__init__()
        self.theta = settings.theta
        self.local_theta = settings.theta if settings.local_theta is None else settings.local_theta

    def rotate(self, qkv: Tensor, layout: Layout, shape: Shape) -> Tensor:
        theta = self.local_theta if shape.reach.is_local else self.theta
        cos, sin = _angles(layout, theta, shape.head_size, _accurate(qkv.dtype))
        if torch.compiler.is_compiling():
            return _rotated(qkv, cos, sin)
        rotated: Tensor = _Rotate.apply(qkv, cos, sin)  # type: ignore[no-untyped-call]
        return rotated

    def offset_pattern(self, offset: int, sharpness: float, shape: Shape) -> OffsetPattern | None:
        """A query and a key that are the same for all tokens, rotated against each other by `offset`. High frequencies
        get more weight, since they distinguish neighbouring positions."""
        theta = self.local_theta if shape.reach.is_local else self.theta
        frequencies = _frequencies(theta, shape.head_size)
        weight = (frequencies / frequencies.sum() * sharpness * math.sqrt(shape.head_size)).sqrt()
        query = torch.cat([weight * (frequencies * offset).cos(), weight * (frequencies * offset).sin()])
        return OffsetPattern(biases=torch.stack([query, torch.cat([weight, torch.zeros_like(weight)])]))


def _frequencies(theta: float, size: int, device: torch.device | None = None) -> Tensor:
    """The angles (D/2,) of a distance of one token."""
    return 1.0 / theta ** (torch.arange(0, size, 2, device=device, dtype=torch.float32) / size)


def _accurate(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which angles are computed."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _angles(layout: Layout, theta: float, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine (T, 1, 1, D/2), computed once per batch and theta."""
    key = (RotaryPositions, theta, size, dtype)
    if key not in layout.memo:
        device = layout.cu_seqlens.device
        angle = torch.arange(layout.max_seqlen, device=device)[:, None] * _frequencies(theta, size, device)
        cos, sin = angle.cos().to(dtype)[layout.text_positions], angle.sin().to(dtype)[layout.text_positions]
        layout.memo[key] = (cos[:, None, None], sin[:, None, None])
    angles: tuple[Tensor, Tensor] = layout.memo[key]
    return angles


def _rotate(qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate queries and keys of (T, 3·N·D) in place; angles (T, 1, 1, D/2) are in fp32 or fp64."""
    half = cos.shape[-1]
    both = qkv.view(qkv.shape[0], 3, -1, 2 * half)[:, :2]
    left, right = both[..., :half], both[..., half:]
    if qkv.dtype == cos.dtype:
        crossed = left * sin
        left.mul_(cos).addcmul_(right, sin, value=-1)
        right.mul_(cos).add_(crossed)
    else:
        a, b = left.to(cos.dtype), right.to(cos.dtype)
        left.copy_(a * cos - b * sin)
        right.copy_(b * cos + a * sin)
    return qkv


def _rotated(qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`_rotate` without in-place operations, which a compiler fuses into one kernel."""
    half = cos.shape[-1]
    split = qkv.view(qkv.shape[0], 3, -1, 2 * half)
    left, right = split[:, :2, :, :half].to(cos.dtype), split[:, :2, :, half:].to(cos.dtype)
    both = torch.cat([left * cos - right * sin, right * cos + left * sin], -1).to(qkv.dtype)
    return torch.cat([both, split[:, 2:]], 1).view_as(qkv)


class _Rotate(torch.autograd.Function):
    """In place in the forward pass (nothing else needs the projection's output); backward rotates the gradient back."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.mark_dirty(qkv)
        ctx.save_for_backward(cos, sin)
        return _rotate(qkv, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(grad.clone(memory_format=torch.contiguous_format), cos, -sin), None, None
