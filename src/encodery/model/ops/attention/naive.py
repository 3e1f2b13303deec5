"""Attention as the formula says: one sequence after another, whole score matrices. The truth for every other file.

Shapes: T tokens, L length of one sequence, N heads, D head size, R longest sequence.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.model.ops.attention import AttentionSpec
from encodery.model.shape import Layout


def attend(qkv: Tensor, layout: Layout, needs: AttentionSpec, bias: Tensor | None = None) -> Tensor:
    """qkv (T, 3, N, D) → (T, N, D)."""
    parts: list[Tensor] = []
    for one in torch.split(qkv, list(layout.lengths)):
        query, key, value = one.permute(1, 2, 0, 3)
        scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
        spot = torch.arange(len(one), device=qkv.device)
        distance = spot[None, :] - spot[:, None]
        if bias is not None:
            scores = scores + bias[:, distance + bias.shape[1] // 2].to(scores.dtype)
        if needs.window is not None:
            scores = scores.masked_fill(distance.abs() > needs.window, float("-inf"))
        weights = F.dropout(scores.softmax(-1), needs.dropout)
        parts.append((weights @ value).transpose(0, 1))
    return torch.cat(parts)
