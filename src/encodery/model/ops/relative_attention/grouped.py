"""Attention with embeddings of distances: consecutive sequences of equal length share one batched product.

Nothing is computed for padding. On any device.

The products with all embeddings of distances are computed first, (L, P), and then picked by distance. Scores and
softmax are computed in fp32 at least. Inside a compiled graph the batch counts as one sequence of T tokens whose
documents are masked, since the host reads nothing of it there; that is correct and slow.
Shapes: T tokens, n sequences, L their length, N heads, D head size, P embeddings of distances.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.model.ops.attention import AttentionSpec
from encodery.model.ops.relative_attention import RelativeTerms
from encodery.model.shape import Layout

MAX_SCORES = 2**20
"""Scores that are computed together, unless a single sequence has more: 4 MiB in fp32."""


class _Added(NamedTuple):
    """What the scores of some sequences of equal length have besides the product of query and key.

    `distance` (L, L): key - query; `allowed` (n or 1, 1, L, L) or None: which scores count.
    """

    distance: Tensor
    allowed: Tensor | None
    bias: Tensor | None
    terms: RelativeTerms
    dropout: float


def attend(qkv: Tensor, layout: Layout, spec: AttentionSpec, bias: Tensor | None, terms: RelativeTerms) -> Tensor:
    """qkv (T, 3, N, D) → (T, N, D)."""
    if torch.compiler.is_compiling():
        return _attend_in_graph(qkv, layout, spec, bias, terms)
    parts: list[Tensor] = []
    first, heads = 0, qkv.shape[2]
    prefixes = layout.prefix[layout.cu_seqlens.diff() > 0] if spec.prefix and layout.prefix is not None else None
    for start, sequences, length in layout.groups:
        position = torch.arange(length, device=qkv.device)
        together = max(1, MAX_SCORES // (heads * length**2))
        run = qkv[start : start + sequences * length].view(sequences, length, *qkv.shape[1:])
        for piece in torch.split(run, together):
            own = None if prefixes is None else prefixes[first : first + len(piece), None, None, None]
            allowed = None
            if not spec.reach.within(length).is_unlimited:
                allowed = spec.reach.allows(position[:, None], position, own)
                allowed = allowed.view(-1, 1, length, length)
            added = _Added(position[None, :] - position[:, None], allowed, bias, terms, spec.dropout)
            parts.append(_mix(piece, added).flatten(0, 1))
            first += len(piece)
    return torch.cat(parts)


def _attend_in_graph(
    qkv: Tensor, layout: Layout, spec: AttentionSpec, bias: Tensor | None, terms: RelativeTerms
) -> Tensor:
    sequence, position = layout.sequence_ids, layout.positions
    allowed = sequence[:, None] == sequence[None, :]
    if not spec.reach.is_unlimited:
        prefix = layout.prefix[sequence, None] if spec.prefix and layout.prefix is not None else None
        allowed = allowed & spec.reach.allows(position[:, None], position[None, :], prefix)
    distance = position[None, :] - position[:, None]
    return _mix(qkv[None], _Added(distance, allowed[None, None], bias, terms, spec.dropout))[0]


def _mix(qkv: Tensor, added: _Added) -> Tensor:
    """qkv (n, L, 3, N, D) of sequences → (n, L, N, D)."""
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    with torch.autocast(qkv.device.type, enabled=False):
        weights = _scores(query, key, added).softmax(-1).to(qkv.dtype)
        mixed: Tensor = (F.dropout(weights, added.dropout) @ value).transpose(1, 2)
        return mixed


def _scores(query: Tensor, key: Tensor, added: _Added) -> Tensor:
    """Queries and keys (n, N, L, D) → scores (n, N, L, L)."""
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    query, key, terms = query.to(wide), key.to(wide), added.terms
    middle = len(terms.index) // 2
    index = terms.index[added.distance.clamp(-middle, middle) + middle]
    scores: Tensor = query @ key.transpose(2, 3)
    if terms.keys is not None:
        products = query @ terms.keys.to(wide).permute(1, 2, 0)
        scores = scores + products.gather(3, index.expand(scores.shape))
    if terms.queries is not None:
        products = key @ terms.queries.to(wide).permute(1, 2, 0)
        scores = scores + products.gather(3, index.T.expand(scores.shape)).transpose(2, 3)
    scores = scores * (terms.products * query.shape[3]) ** -0.5
    if added.bias is not None:
        middle = added.bias.shape[1] // 2
        scores = scores + added.bias[:, added.distance.clamp(-middle, middle) + middle].to(wide)
    return scores if added.allowed is None else scores.masked_fill(~added.allowed, float("-inf"))
