"""Linear attention in linear time, on any device: sums of products of keys and values take the place of their pairs.

Sequences whose lengths differ by less than a factor of two are padded to the longest of them and computed together; in
a compiled graph, where the host knows no lengths, all are. Causal attention computes pairs within chunks of C tokens,
and sums of products before them (arXiv:2006.16236, section 3.3, in chunks).
Shapes: T tokens, n sequences of a bucket, L the longest of them, t their tokens, K chunks of C tokens, N heads, D head
size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.model.ops.linear_attention import EPSILON, LinearInputs
from encodery.model.shape import Layout

CHUNK = 64
"""Tokens of a chunk."""


class _Bucket(NamedTuple):
    """Sequences that are computed together: their `tokens` (t,), the `slots` (t,) of these in (n·L), and the sizes."""

    tokens: Tensor
    slots: Tensor
    sequences: int
    length: int


def attend(inputs: LinearInputs, layout: Layout) -> Tensor:
    """(T, N, D) each → (T, N, D)."""
    buckets = [_whole(layout)] if torch.compiler.is_compiling() else _buckets(layout)
    mixed = torch.cat([_attend_bucket(inputs, bucket) for bucket in buckets])
    order = torch.cat([bucket.tokens for bucket in buckets])
    return torch.empty_like(mixed).index_copy(0, order, mixed)


def _attend_bucket(inputs: LinearInputs, bucket: _Bucket) -> Tensor:
    """The results (t, N, D) of the tokens of a bucket."""

    def padded(packed: Tensor) -> Tensor:
        """(T, N, D) → (n, N, L, D), zero at padding."""
        space = packed.new_zeros(bucket.sequences * bucket.length, *packed.shape[1:])
        own = space.index_copy(0, bucket.slots, packed[bucket.tokens])
        return own.view(bucket.sequences, bucket.length, *packed.shape[1:]).transpose(1, 2)

    query, key, value, positive_query, positive_key = map(padded, inputs[:5])
    if inputs.causal:
        sums, totals = _causal_sums(query, key, value), positive_key.cumsum(2)
    else:
        sums, totals = query @ (key.transpose(2, 3) @ value), positive_key.sum(2, keepdim=True)
    mixed = sums / ((positive_query * totals).sum(-1, keepdim=True) + EPSILON)
    return mixed.transpose(1, 2).flatten(0, 1)[bucket.slots]


def _causal_sums(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Σ_{j <= i} (query_i · key_j) value_j, from (n, N, L, D) each."""
    length = query.shape[2]
    size = min(CHUNK, length)
    sizes = (*query.shape[:2], -1, size, query.shape[3])
    query, key, value = (F.pad(x, (0, 0, 0, -length % size)).view(sizes) for x in (query, key, value))
    own = key.transpose(3, 4) @ value  # (n, N, K, D, D)
    before = F.pad(own.cumsum(2)[:, :, :-1], (0, 0, 0, 0, 1, 0))
    sums = query @ before + (query @ key.transpose(3, 4)).tril() @ value
    return sums.flatten(2, 3)[:, :, :length]


def _whole(layout: Layout) -> _Bucket:
    """All sequences in one bucket."""
    tokens = torch.arange(layout.tokens, device=layout.cu_seqlens.device)
    slots = layout.sequence_ids * layout.max_seqlen + layout.positions
    return _Bucket(tokens, slots, layout.cu_seqlens.numel() - 1, layout.max_seqlen)


def _buckets(layout: Layout) -> list[_Bucket]:
    """The buckets of a batch, computed once."""
    if "linear attention" not in layout.memo:
        members: dict[int, list[int]] = {}
        for sequence, length in enumerate(layout.lengths):
            members.setdefault(length.bit_length(), []).append(sequence)
        layout.memo["linear attention"] = [_bucket(layout, own) for own in members.values()]
    buckets: list[_Bucket] = layout.memo["linear attention"]
    return buckets


def _bucket(layout: Layout, sequences: list[int]) -> _Bucket:
    device, longest = layout.cu_seqlens.device, max(layout.lengths[sequence] for sequence in sequences)
    rank = torch.full((len(layout.lengths),), -1)
    rank[sequences] = torch.arange(len(sequences))
    own = rank.to(device)[layout.sequence_ids]
    tokens = (own >= 0).nonzero().squeeze(1)
    return _Bucket(tokens, own[tokens] * longest + layout.positions[tokens], len(sequences), longest)
