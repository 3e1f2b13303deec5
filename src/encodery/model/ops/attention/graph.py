"""Attention inside a compiled graph: the host reads nothing of the batch, so one graph serves every batch of one size.

Used while `torch.compile` traces. On CUDA in fp16 or bf16, if distance alone decides and adds nothing, flash attention
takes the packed sequences; an empty sequence costs nothing. Everything else computes the scores of all pairs of tokens
(T, T) and masks those of other sequences, which is correct on every device and slow. Not run on a GPU yet.
Shapes: T tokens, N heads, D head size, R longest sequence.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.model.ops.attention import AttentionSpec
from encodery.model.shape import Layout


def attend(qkv: Tensor, layout: Layout, spec: AttentionSpec, bias: Tensor | None = None) -> Tensor:
    """qkv (T, 3, N, D) → (T, N, D)."""
    flash_dtype = qkv.is_cuda and qkv.dtype in (torch.float16, torch.bfloat16)
    if flash_dtype and bias is None and not spec.dropout and spec.is_band:
        from torch.nn.attention.varlen import varlen_attn

        query, key, value = qkv.unbind(1)
        cu, longest = layout.cu_seqlens, layout.max_seqlen
        flash = varlen_attn(query, key, value, cu, cu, longest, longest, window_size=spec.window)
        assert isinstance(flash, Tensor)
        return flash
    query, key, value = qkv.permute(1, 2, 0, 3)[None].unbind(1)
    mixed = F.scaled_dot_product_attention(query, key, value, _mask(layout, spec, bias, qkv), spec.dropout)
    return mixed[0].transpose(0, 1)


def _mask(layout: Layout, spec: AttentionSpec, bias: Tensor | None, qkv: Tensor) -> Tensor:
    """What is added to scores, (1, 1 or N, T, T)."""
    sequence, position = layout.sequence_ids, layout.positions
    allowed = sequence[:, None] == sequence[None, :]
    if not spec.reach.is_unlimited:
        prefix = layout.prefix[sequence] if spec.prefix and layout.prefix is not None else None
        allowed = allowed & spec.reach.allows(position[:, None], position[None, :], prefix)
    if bias is None:
        return allowed[None, None]
    middle, distance = bias.shape[1] // 2, position[None, :] - position[:, None]
    added = bias[:, distance.clamp(-middle, middle) + middle].to(qkv.dtype)
    return added.masked_fill(~allowed, float("-inf"))[None]
