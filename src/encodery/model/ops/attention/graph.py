"""Attention inside a compiled graph: nothing about the batch is read by the host, so one graph serves every batch of
one size (`train.static`). Chosen while `torch.compile` traces.

On CUDA in fp16 or bf16, without a bias by distance, flash attention takes the sequences as they lie; an empty sequence
is no work. Everything else makes the scores of all pairs of tokens (T, T) and hides those of other sequences: right
everywhere, fast nowhere. Not run on a GPU yet.
Shapes: T tokens, N heads, D head size, R longest sequence.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.model.ops.attention import AttentionSpec
from encodery.model.shape import Layout


def attend(qkv: Tensor, layout: Layout, needs: AttentionSpec, bias: Tensor | None = None) -> Tensor:
    """qkv (T, 3, N, D) → (T, N, D)."""
    if qkv.is_cuda and qkv.dtype in (torch.float16, torch.bfloat16) and bias is None and not needs.dropout:
        from torch.nn.attention.varlen import varlen_attn

        query, key, value = qkv.unbind(1)
        reach = -1 if needs.window is None else needs.window
        cu, longest = layout.cu_seqlens, layout.max_seqlen
        flash = varlen_attn(query, key, value, cu, cu, longest, longest, window_size=(reach, reach))
        assert isinstance(flash, Tensor)
        return flash
    query, key, value = qkv.permute(1, 2, 0, 3)[None].unbind(1)
    mixed = F.scaled_dot_product_attention(query, key, value, _mask(layout, needs, bias, qkv), needs.dropout)
    return mixed[0].transpose(0, 1)


def _mask(layout: Layout, needs: AttentionSpec, bias: Tensor | None, qkv: Tensor) -> Tensor:
    """What is added to scores, (1, 1 or N, T, T)."""
    spot = torch.arange(layout.tokens, device=qkv.device)
    seen = layout.sequence_ids[:, None] == layout.sequence_ids[None, :]
    distance = spot[None, :] - spot[:, None]
    if needs.window is not None:
        seen = seen & (distance.abs() <= needs.window)
    if bias is None:
        return seen[None, None]
    middle = bias.shape[1] // 2
    added = bias[:, distance.clamp(-middle, middle) + middle].to(qkv.dtype)
    return added.masked_fill(~seen, float("-inf"))[None]
