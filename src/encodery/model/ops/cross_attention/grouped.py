"""Attention to a memory without padding: consecutive pairs of sequences of equal lengths are computed in one call.

Works on any device, with dropout. The longer the runs of equal lengths, the fewer the calls.
Shapes: T tokens, M tokens of the memory, n pairs of a run, L and K their lengths, N heads, D head size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.model.shape import Layout


def attend(query: Tensor, key_value: Tensor, layout: Layout, memory: Layout, dropout: float = 0.0) -> Tensor:
    """query (T, N, D), key_value (M, 2, N, D) → (T, N, D)."""
    heads, size = query.shape[1:]
    parts: list[Tensor] = []
    start = read_start = 0
    for count, length, read in _runs(layout, memory):
        own = query[start : start + count * length].view(count, length, heads, size).transpose(1, 2)
        if length and read:
            both = key_value[read_start : read_start + count * read].view(count, read, 2, heads, size)
            key, value = both.permute(2, 0, 3, 1, 4)
            own = F.scaled_dot_product_attention(own, key, value, dropout_p=dropout)
        else:
            own = torch.zeros_like(own)
        parts.append(own.transpose(1, 2).reshape(count * length, heads, size))
        start, read_start = start + count * length, read_start + count * read
    return torch.cat(parts)


def _runs(layout: Layout, memory: Layout) -> list[tuple[int, int, int]]:
    """The runs (n, L, K), computed once per pair of batches. The memo keeps `memory`, so that its id is not reused."""
    key = ("pairs", id(memory))
    if key not in layout.memo:
        runs: list[tuple[int, int, int]] = []
        for length, read in zip(layout.lengths, memory.lengths, strict=True):
            if runs and runs[-1][1:] == (length, read):
                runs[-1] = (runs[-1][0] + 1, length, read)
            else:
                runs.append((1, length, read))
        layout.memo[key] = (memory, runs)
    result: list[tuple[int, int, int]] = layout.memo[key][1]
    return result
