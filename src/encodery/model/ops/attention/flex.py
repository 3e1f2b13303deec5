"""Attention by FlexAttention, for scores with a bias or a reach that is no band: one sequence with a document mask.

Compiled on CUDA; elsewhere not compiled, and used only in the comparison with `naive`. Not run on a GPU yet.
Shapes: T tokens, N heads, D head size, R longest sequence.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from encodery.model.ops.attention import AttentionSpec
from encodery.model.shape import Layout


def attend(qkv: Tensor, layout: Layout, spec: AttentionSpec, bias: Tensor | None = None) -> Tensor:
    """qkv (T, 3, N, D) → (T, N, D)."""
    query, key, value = qkv.permute(1, 2, 0, 3).unsqueeze(1).unbind(0)
    mask = _mask(layout, spec)
    mixed = _flex(qkv.is_cuda)(query, key, value, score_mod=_score(bias), block_mask=mask)
    return mixed[0].transpose(0, 1)


@functools.cache
def _flex(compiled: bool) -> Callable[..., Tensor]:
    return torch.compile(flex_attention, dynamic=True) if compiled else flex_attention  # type: ignore[return-value]


def _score(bias: Tensor | None) -> Callable[..., Tensor] | None:
    if bias is None:
        return None
    middle = bias.shape[1] // 2

    def score(value: Tensor, _: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        # Distances between documents exceed the table; the mask removes those scores.
        distance = (key - query).clamp(-middle, middle)
        return value + bias[head, distance + middle]

    return score


def _mask(layout: Layout, spec: AttentionSpec) -> BlockMask:
    """The mask of the tokens of the same document that are within reach, computed once per batch and reach."""
    memo_key = ("flex", spec.reach, spec.prefix)
    if memo_key not in layout.memo:
        sequence, position = layout.sequence_ids, layout.positions
        prefix = layout.prefix if spec.prefix else None

        def attends(_: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            same = sequence[query] == sequence[key]
            if spec.reach.is_unlimited:
                return same
            own_prefix = None if prefix is None else prefix[sequence[query]]
            return same & spec.reach.allows(position[query], position[key], own_prefix)

        length: Any = layout.tokens
        layout.memo[memo_key] = create_block_mask(
            attends, None, None, length, length, device=str(layout.cu_seqlens.device)
        )
    mask: BlockMask = layout.memo[memo_key]
    return mask
