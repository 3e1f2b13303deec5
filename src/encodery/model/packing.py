"""Padded to packed and back, for exports, peers and tests that need padding. Nothing inside the model pads.

Shapes: B sequences, L padded length, T real tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from encodery.base.errors import InputError
from encodery.model.shape import Batch, Layout


def pack(ids: Tensor, mask: Tensor, segment: Tensor | None = None) -> Batch:
    """Pack padded `ids` (B, L); `mask` (B, L) is 1 at real tokens, and padding may be anywhere.

    Raises `InputError` if the shapes differ or a sequence has no real token.
    """
    if ids.shape != mask.shape or ids.dim() != 2 or (segment is not None and segment.shape != ids.shape):
        raise InputError(f"ids {tuple(ids.shape)} and mask {tuple(mask.shape)} must have the same shape (B, L).")
    real = mask.bool()
    lengths = real.sum(1)
    if not ids.numel() or int(lengths.min()) == 0:
        raise InputError("Every sequence of a batch needs at least one token.")
    cu = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    return Batch(ids[real], cu, int(lengths.max()), None if segment is None else segment[real])


def unpack(values: Tensor, layout: Layout, fill: float = 0.0) -> Tensor:
    """Pad packed `values` (T, …) with `fill` at the end, to (B, L, …), where L is the longest sequence."""
    count, longest = layout.cu_seqlens.numel() - 1, layout.max_seqlen
    padded = values.new_full((count * longest, *values.shape[1:]), fill)
    slot = layout.sequence_ids * longest + layout.positions
    return padded.index_copy(0, slot, values).view(count, longest, *values.shape[1:])
