"""Attention inside a compiled graph: the host reads nothing of the batch, so one graph serves every batch of one size.

Used while `torch.compile` traces. On CUDA in fp16 or bf16, without a bias by distance, flash attention takes the packed
sequences; an empty sequence costs nothing. Everything else computes the scores of all pairs of tokens (T, T) and masks
those of other sequences, which is correct on every device and slow. Not run on a GPU yet.
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
    if qkv.is_cuda and qkv.dtype in (torch.float16, torch.bfloat16) and bias is None and not spec.dropout:
        from torch.nn.attention.varlen import varlen_attn

        query, key, value = qkv.unbind(1)
        reach = -1 if spec.window is None else spec.window
        cu, longest = layout.cu_seqlens, layout.max_seqlen
        flash = varlen_attn(query, key, value, cu, cu, longest, longest, window_size=(reach, reach))
        assert isinstance(flash, Tensor)
        return flash
    query, key, value = qkv.permute(1, 2, 0, 3)[None].unbind(1)
    mixed = F.scaled_dot_product_attention(query, key, value, _mask(layout, spec, bias, qkv), spec.dropout)
    return mixed[0].transpose(0, 1)


def _mask(layout: Layout, spec: AttentionSpec, bias: Tensor | None, qkv: Tensor) -> Tensor:
    """What is added to scores, (1, 1 or N, T, T)."""
    index = torch.arange(layout.tokens, device=qkv.device)
    allowed = layout.sequence_ids[:, None] == layout.sequence_ids[None, :]
    distance = index[None, :] - index[:, None]
    if spec.window is not None:
        allowed = allowed & (distance.abs() <= spec.window)
    if bias is None:
        return allowed[None, None]
    middle = bias.shape[1] // 2
    added = bias[:, distance.clamp(-middle, middle) + middle].to(qkv.dtype)
    return added.masked_fill(~allowed, float("-inf"))[None]
