"""Attention by its formula: one sequence after another, with whole score matrices. The reference implementation.

Shapes: T tokens, L length of one sequence, N heads, D head size, R longest sequence.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.model.ops.attention import AttentionSpec
from encodery.model.shape import Layout


def attend(qkv: Tensor, layout: Layout, spec: AttentionSpec, bias: Tensor | None = None) -> Tensor:
    """qkv (T, 3, N, D) → (T, N, D)."""
    parts: list[Tensor] = []
    prefixes = layout.prefix if spec.prefix else None
    for number, sequence in enumerate(torch.split(qkv, list(layout.lengths))):
        query, key, value = sequence.permute(1, 2, 0, 3)
        scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
        index = torch.arange(len(sequence), device=qkv.device)
        distance = index[None, :] - index[:, None]
        if bias is not None:
            scores = scores + bias[:, distance + bias.shape[1] // 2].to(scores.dtype)
        allowed = spec.reach.allows(index[:, None], index, None if prefixes is None else prefixes[number])
        scores = scores.masked_fill(~allowed, float("-inf"))
        weights = F.dropout(scores.softmax(-1), spec.dropout)
        parts.append((weights @ value).transpose(0, 1))
    return torch.cat(parts)
