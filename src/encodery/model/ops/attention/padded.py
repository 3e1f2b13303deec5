"""Attention over sequences that are padded to the longest inside this function: works on any device, with dropout.

Used for float32 on accelerators and for dropout of attention weights; other implementations are faster elsewhere.
Shapes: T tokens, B sequences, L longest sequence, N heads, D head size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.model.ops.attention import AttentionSpec
from encodery.model.shape import Layout


def attend(qkv: Tensor, layout: Layout, spec: AttentionSpec, bias: Tensor | None = None) -> Tensor:
    """qkv (T, 3, N, D) → (T, N, D)."""
    longest = layout.max_seqlen
    count = layout.cu_seqlens.numel() - 1
    slot = layout.sequence_ids * longest + layout.positions
    padded = qkv.new_zeros(count * longest, *qkv.shape[1:]).index_copy(0, slot, qkv)
    query, key, value = padded.view(count, longest, *qkv.shape[1:]).permute(2, 0, 3, 1, 4)
    mask = _mask(layout, spec, bias, qkv.dtype)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=spec.dropout)
    return mixed.transpose(1, 2).flatten(0, 1)[slot]


def _mask(layout: Layout, spec: AttentionSpec, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """What is added to scores, (B, 1 or N, L, L). Padded queries attend to real tokens, so that no softmax is empty."""
    longest = layout.max_seqlen
    index = torch.arange(longest, device=layout.cu_seqlens.device)
    lengths = layout.cu_seqlens.diff()
    allowed = (index < lengths[:, None])[:, None, None, :]
    distance = index[None, :] - index[:, None]
    if not spec.reach.is_unlimited:
        prefix = layout.prefix[:, None, None, None] if spec.prefix and layout.prefix is not None else None
        near = spec.reach.allows(index[:, None], index, prefix)
        allowed = (allowed & near) | (index >= lengths[:, None])[:, None, :, None]
    zero = torch.zeros((), dtype=dtype, device=index.device)
    mask = zero.where(allowed, float("-inf"))
    if bias is None:
        return mask
    return mask + bias[:, distance + bias.shape[1] // 2].to(dtype)
