"""Attention to a memory by its formula: one sequence after another. The reference implementation.

Shapes: T tokens, M tokens of the memory, N heads, D head size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.model.shape import Layout


def attend(query: Tensor, key_value: Tensor, layout: Layout, memory: Layout, dropout: float = 0.0) -> Tensor:
    """query (T, N, D), key_value (M, 2, N, D) → (T, N, D)."""
    parts: list[Tensor] = []
    for own, read in zip(
        torch.split(query, list(layout.lengths)), torch.split(key_value, list(memory.lengths)), strict=True
    ):
        key, value = read.permute(1, 2, 0, 3)
        scores = own.transpose(0, 1) @ key.transpose(1, 2) / own.shape[-1] ** 0.5
        weights = F.dropout(scores.softmax(-1), dropout)
        parts.append((weights @ value).transpose(0, 1))
    return torch.cat(parts)
