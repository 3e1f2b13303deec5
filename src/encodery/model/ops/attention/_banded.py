"""Local attention over one long sequence: each block of W tokens attends to itself and to its two neighbours.

The cost is L·(3W + E) instead of L², where E counts the sinks and global positions, to which every block attends
besides. The operations are ordinary ones, so autograd provides the backward pass.
Shapes: L length, W the wider of the two sides of the reach, C blocks of W tokens, E sinks and global positions,
N heads, D head size, R longest sequence of the batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.model.reach import Reach


def banded(qkv: Tensor, reach: Reach, bias: Tensor | None) -> Tensor:
    """qkv (L, 3, N, D) → (L, N, D), for a reach that is limited on both sides and has no prefix; bias (N, 2R - 1) by
    distance or None."""
    assert reach.left is not None
    assert reach.right is not None
    length, _, heads, size = qkv.shape
    wide = max(reach.left, reach.right, 1)
    blocks = -(-length // wide)
    padded = F.pad(qkv.permute(1, 2, 0, 3), (0, 0, wide, wide + blocks * wide - length))
    padded = padded if padded.dtype.itemsize >= 4 else padded.float()
    query = padded[0, :, wide:-wide].view(heads, blocks, wide, size)
    key, value = padded[1:].view(2, heads, blocks + 2, wide, size).unfold(2, 3, 1).movedim(-1, 3).flatten(3, 4)

    query_index = torch.arange(blocks * wide).view(blocks, wide, 1)
    key_index = torch.arange(3 * wide) + (torch.arange(blocks)[:, None, None] - 1) * wide
    distance = key_index - query_index
    scores = _biased(query @ key.transpose(2, 3) * size**-0.5, bias, distance[:1])
    # Queries beyond the end attend to its tokens, so that no softmax is empty; they are removed below.
    masked = (distance < -reach.left) | (distance > reach.right) | (key_index < 0) | (key_index >= length)
    masked &= query_index < length
    scores = scores.masked_fill(masked, float("-inf"))

    far = sorted({*range(min(reach.sinks, length)), *(p for p in reach.global_positions if p < length)})
    if far:
        index = torch.tensor(far)
        far_key, far_value = padded[1:, :, index + wide]
        distance = index - query_index
        far_scores = _biased(query @ far_key[:, None].transpose(2, 3) * size**-0.5, bias, distance)
        in_band = (distance >= -reach.left) & (distance <= reach.right)
        far_scores = far_scores.masked_fill(in_band | ~reach.allows(query_index, index), float("-inf"))
        scores = torch.cat([scores, far_scores], -1)
    weights = scores.softmax(-1)
    mixed = weights[..., : 3 * wide] @ value
    if far:
        mixed = mixed + weights[..., 3 * wide :] @ far_value[:, None]
    mixed = mixed.flatten(1, 2)[:, :length]
    return _with_global_rows(mixed, padded[:, :, wide : wide + length], reach, bias).transpose(0, 1).to(qkv.dtype)


def _with_global_rows(mixed: Tensor, qkv: Tensor, reach: Reach, bias: Tensor | None) -> Tensor:
    """Replace the results (N, L, D) of global positions, which attend to every token; qkv (3, N, L, D)."""
    length, size = qkv.shape[2:]
    rows = torch.tensor([p for p in reach.global_positions if p < length], dtype=torch.int64)
    if not len(rows):
        return mixed
    scores = qkv[0, :, rows] @ qkv[1].transpose(1, 2) * size**-0.5
    scores = _biased(scores, bias, torch.arange(length) - rows[:, None])
    return mixed.index_copy(1, rows, scores.softmax(-1) @ qkv[2])


def _biased(scores: Tensor, bias: Tensor | None, distance: Tensor) -> Tensor:
    """Add the bias (N, 2R - 1) of each distance, in blocks or not, to the scores of N heads."""
    if bias is None:
        return scores
    middle = bias.shape[1] // 2
    return scores + bias[:, distance.clamp(-middle, middle) + middle].to(scores.dtype)
