"""Local attention over one long sequence: blocks of the window's size look at themselves and their two neighbours.

Cost L·3W instead of L². Plain operations throughout, so autograd gives the backward pass.
Shapes: L length, W window, C blocks of W tokens, N heads, D head size, R longest sequence of the batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def banded(qkv: Tensor, window: int, bias: Tensor | None) -> Tensor:
    """qkv (L, 3, N, D) → (L, N, D), i seeing j where |i - j| <= window; bias (N, 2R - 1) by distance or None."""
    length, _, heads, size = qkv.shape
    wide = max(window, 1)
    blocks = -(-length // wide)
    rows = F.pad(qkv.permute(1, 2, 0, 3), (0, 0, wide, wide + blocks * wide - length))
    rows = rows if rows.dtype.itemsize >= 4 else rows.float()
    query = rows[0, :, wide:-wide].view(heads, blocks, wide, size)
    key, value = rows[1:].view(2, heads, blocks + 2, wide, size).unfold(2, 3, 1).movedim(-1, 3).flatten(3, 4)
    scores = query @ key.transpose(2, 3) * size**-0.5

    own = torch.arange(blocks * wide).view(blocks, wide, 1)
    seen = torch.arange(3 * wide) + (torch.arange(blocks)[:, None, None] - 1) * wide
    distance = seen - own
    if bias is not None:
        middle = bias.shape[1] // 2
        scores = scores + bias[:, distance[0].clamp(-middle, middle) + middle][:, None].to(scores.dtype)
    # Queries behind the end see the end, lest a row be empty; they are cut off below.
    hidden = (distance.abs() > window) | (seen < 0) | (seen >= length)
    hidden &= own < length
    weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    mixed: Tensor = (weights @ value).flatten(1, 2)[:, :length]
    return mixed.transpose(0, 1).to(qkv.dtype)
