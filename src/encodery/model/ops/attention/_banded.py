"""Local attention over one long sequence: each block of W tokens attends to itself and to its two neighbours.

The cost is L·3W instead of L². The operations are ordinary ones, so autograd provides the backward pass.
Shapes: L length, W the wider of the two sides of the reach, C blocks of W tokens, N heads, D head size, R longest
sequence of the batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def banded(qkv: Tensor, left: int, right: int, bias: Tensor | None) -> Tensor:
    """qkv (L, 3, N, D) → (L, N, D), where i attends to j if -left <= j - i <= right; bias (N, 2R - 1) by distance."""
    length, _, heads, size = qkv.shape
    wide = max(left, right, 1)
    blocks = -(-length // wide)
    padded = F.pad(qkv.permute(1, 2, 0, 3), (0, 0, wide, wide + blocks * wide - length))
    padded = padded if padded.dtype.itemsize >= 4 else padded.float()
    query = padded[0, :, wide:-wide].view(heads, blocks, wide, size)
    key, value = padded[1:].view(2, heads, blocks + 2, wide, size).unfold(2, 3, 1).movedim(-1, 3).flatten(3, 4)
    scores = query @ key.transpose(2, 3) * size**-0.5

    query_index = torch.arange(blocks * wide).view(blocks, wide, 1)
    key_index = torch.arange(3 * wide) + (torch.arange(blocks)[:, None, None] - 1) * wide
    distance = key_index - query_index
    if bias is not None:
        middle = bias.shape[1] // 2
        scores = scores + bias[:, distance[0].clamp(-middle, middle) + middle][:, None].to(scores.dtype)
    # Queries beyond the end attend to its tokens, so that no softmax is empty; they are removed below.
    masked = (distance < -left) | (distance > right) | (key_index < 0) | (key_index >= length)
    masked &= query_index < length
    weights = scores.masked_fill(masked, float("-inf")).softmax(-1)
    mixed: Tensor = (weights @ value).flatten(1, 2)[:, :length]
    return mixed.transpose(0, 1).to(qkv.dtype)
