"""Rotary positions: queries and keys turned by angles that grow with position. arXiv:2104.09864

Differs from `learned`: relative, nothing learned. Halves are rotated against each other (not neighbours). Layers
with a window may turn at a theta of their own (`local_theta`, arXiv:2412.13663).
Shapes: T tokens, N heads, D head size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.model.positions import OffsetPattern, Positions, PositionsModule
from encodery.model.shape import Layout, Shape


@dataclass(frozen=True, kw_only=True)
class RotaryPositions(Positions):
    """`theta` of layers that see the whole document, `local_theta` of layers with a window (None: the same)."""

    theta: float = 10_000.0
    local_theta: float | None = None

    def build(self, shape: Shape) -> PositionsModule:
        if shape.head_size % 2:
            raise SettingsError(f"Rotary positions need an even head size, not {shape.head_size}.")
        return _RotaryModule(self)


class _RotaryModule(PositionsModule):
    def __init__(self, settings: RotaryPositions) -> None:
        super().__init__()
        self.theta = settings.theta
        self.local_theta = settings.theta if settings.local_theta is None else settings.local_theta

    def rotate(self, qkv: Tensor, layout: Layout, shape: Shape) -> Tensor:
        theta = self.theta if shape.window is None else self.local_theta
        cos, sin = _angles(layout, theta, shape.head_size, _accurate(qkv.dtype))
        if torch.compiler.is_compiling():
            return _turned(qkv, cos, sin)
        turned: Tensor = _Turn.apply(qkv, cos, sin)  # type: ignore[no-untyped-call]
        return turned

    def offset_pattern(self, offset: int, sharpness: float, shape: Shape) -> OffsetPattern | None:
        """A query and a key that are the same for all tokens, turned against each other: fast turns count for more,
        since they tell neighbours apart."""
        theta = self.theta if shape.window is None else self.local_theta
        turns = _turns(theta, shape.head_size)
        share = (turns / turns.sum() * sharpness * math.sqrt(shape.head_size)).sqrt()
        query = torch.cat([share * (turns * offset).cos(), share * (turns * offset).sin()])
        return OffsetPattern(biases=torch.stack([query, torch.cat([share, torch.zeros_like(share)])]))


def _turns(theta: float, size: int, device: torch.device | None = None) -> Tensor:
    """The angles (D/2,) by which one token's distance turns."""
    return 1.0 / theta ** (torch.arange(0, size, 2, device=device, dtype=torch.float32) / size)


def _accurate(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _angles(layout: Layout, theta: float, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine (T, 1, 1, D/2), once per batch and theta."""
    key = (RotaryPositions, theta, size, dtype)
    if key not in layout.memo:
        device = layout.cu_seqlens.device
        angle = torch.arange(layout.max_seqlen, device=device)[:, None] * _turns(theta, size, device)
        cos, sin = angle.cos().to(dtype)[layout.text_positions], angle.sin().to(dtype)[layout.text_positions]
        layout.memo[key] = (cos[:, None, None], sin[:, None, None])
    found: tuple[Tensor, Tensor] = layout.memo[key]
    return found


def _rotate(qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn queries and keys of (T, 3·N·D) in place; angles (T, 1, 1, D/2) in at least fp32."""
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


def _turned(qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`_rotate` as plain operations, which a compiler makes one kernel of."""
    half = cos.shape[-1]
    rows = qkv.view(qkv.shape[0], 3, -1, 2 * half)
    left, right = rows[:, :2, :, :half].to(cos.dtype), rows[:, :2, :, half:].to(cos.dtype)
    both = torch.cat([left * cos - right * sin, right * cos + left * sin], -1).to(qkv.dtype)
    return torch.cat([both, rows[:, 2:]], 1).view_as(qkv)


class _Turn(torch.autograd.Function):
    """In place forward (the projection's output is needed by nothing else); backward turns the gradient back."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.mark_dirty(qkv)
        ctx.save_for_backward(cos, sin)
        return _rotate(qkv, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(grad.clone(memory_format=torch.contiguous_format), cos, -sin), None, None
