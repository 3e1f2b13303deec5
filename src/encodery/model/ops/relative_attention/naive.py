"""Attention with embeddings of distances by its formula, one sequence after another. The reference implementation.

Shapes: T tokens, L length of one sequence, N heads, D head size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.model.ops.attention import AttentionSpec
from encodery.model.ops.relative_attention import RelativeTerms
from encodery.model.shape import Layout


def attend(qkv: Tensor, layout: Layout, spec: AttentionSpec, bias: Tensor | None, terms: RelativeTerms) -> Tensor:
    """qkv (T, 3, N, D) → (T, N, D)."""
    parts: list[Tensor] = []
    prefixes = layout.prefix if spec.prefix else None
    for number, sequence in enumerate(torch.split(qkv, list(layout.lengths))):
        query, key, value = sequence.unbind(1)
        position = torch.arange(len(sequence), device=qkv.device)
        distance = position[None, :] - position[:, None]
        index = terms.index[distance + len(terms.index) // 2]
        scores = torch.einsum("ind,jnd->nij", query, key)
        if terms.keys is not None:
            scores = scores + torch.einsum("ind,ijnd->nij", query, terms.keys[index])
        if terms.queries is not None:
            scores = scores + torch.einsum("ijnd,jnd->nij", terms.queries[index], key)
        scores = scores / (terms.products * query.shape[-1]) ** 0.5
        if bias is not None:
            scores = scores + bias[:, distance + bias.shape[1] // 2].to(scores.dtype)
        allowed = spec.reach.allows(position[:, None], position, None if prefixes is None else prefixes[number])
        weights = F.dropout(scores.masked_fill(~allowed, float("-inf")).softmax(-1), spec.dropout)
        parts.append(torch.einsum("nij,jnd->ind", weights, value))
    return torch.cat(parts)
