"""Attention with embeddings of distances: consecutive sequences of equal length share one batched product.

Nothing is computed for padding. On any device.

The products with all embeddings of distances are computed first, (L, P), and then picked by distance. Scores and
softmax are computed in fp32 at least. Inside a compiled graph the batch counts as one sequence of T tokens whose
documents are masked, since the host reads nothing of it there; that is correct and slow.
Shapes: T tokens, n sequences, L their length, N heads, D head size, P embeddings of distances.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from encodery.model.ops.attention import AttentionSpec
from encodery.model.ops.relative_attention import RelativeTerms
from encodery.model.shape import Layout

MAX_SCORES = 2**20
"""Scores that are computed together, unless a single sequence has more: 4 MiB in fp32."""


class _Added(NamedTuple):
    """What the scores of sequences of equal length have besides the product of query and key.

    `entry` (L, L): the embedding of each distance; `bias` (N, 1, L, L) or None; `allowed` (1, n or 1, L, L) or None:
    which scores count.
    """

    terms: RelativeTerms
    entry: Tensor
    bias: Tensor | None
    allowed: Tensor | None
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
        added = _added(position, bias, terms, spec.dropout)
        together = max(1, MAX_SCORES // (heads * length**2))
        run = qkv[start : start + sequences * length].view(sequences, length, *qkv.shape[1:])
        for piece in torch.split(run, together):
            if not spec.reach.within(length).is_unlimited:
                own = None if prefixes is None else prefixes[first : first + len(piece), None, None]
                allowed = spec.reach.allows(position[:, None], position, own).view(1, -1, length, length)
                added = added._replace(allowed=allowed)
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
    added = _added(position, bias, terms, spec.dropout)
    return _mix(qkv[None], added._replace(allowed=allowed[None, None]))[0]


def _added(position: Tensor, bias: Tensor | None, terms: RelativeTerms, dropout: float) -> _Added:
    """What is added for tokens at these positions (L,), with all scores allowed."""
    distance = position[None, :] - position[:, None]

    def entries(table: Tensor) -> Tensor:
        """The entry of each distance in the last dimension; distances between documents may exceed the table."""
        middle = table.shape[-1] // 2
        return table[..., distance.clamp(-middle, middle) + middle]

    return _Added(terms, entries(terms.index), None if bias is None else entries(bias)[:, None], None, dropout)


def _mix(qkv: Tensor, added: _Added) -> Tensor:
    """qkv (n, L, 3, N, D) of sequences → (n, L, N, D)."""
    query, key, value = (part.contiguous() for part in qkv.permute(2, 3, 0, 1, 4))
    with torch.autocast(qkv.device.type, enabled=False):
        weights = _scores(query, key, added).softmax(-1).to(qkv.dtype)
        if added.dropout:
            weights = F.dropout(weights, added.dropout)
        mixed: Tensor = (weights @ value).permute(1, 2, 0, 3)
        return mixed


def _scores(query: Tensor, key: Tensor, added: _Added) -> Tensor:
    """Queries and keys (N, n, L, D) → scores (N, n, L, L)."""
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    query, key, terms = query.to(wide), key.to(wide), added.terms
    scores: Tensor = query @ key.transpose(2, 3)
    if terms.keys is not None:
        scores = scores + _products(query, terms.keys.to(wide), added.entry)
    if terms.queries is not None:
        scores = scores + _products(key, terms.queries.to(wide), added.entry.T).transpose(2, 3)
    scores = scores * (terms.products * query.shape[3]) ** -0.5
    if added.bias is not None:
        scores = scores + added.bias.to(wide)
    return scores if added.allowed is None else scores.masked_fill(~added.allowed, float("-inf"))


def _products(vectors: Tensor, of_distances: Tensor, index: Tensor) -> Tensor:
    """Products (N, n, L, L) of vectors (N, n, L, D) of tokens with the embeddings (P, N, D) of their distances from all
    tokens, which `index` (L, L) picks."""
    count, heads = of_distances.shape[:2]
    products = (vectors.flatten(1, 2) @ of_distances.permute(1, 2, 0)).view(heads, -1, len(index), count)
    if torch.compiler.is_compiling():
        return products.gather(3, index.expand(heads, products.shape[1], -1, -1))
    picked: Tensor = _Pick.apply(products, index)  # type: ignore[no-untyped-call]
    return picked


class _Pick(torch.autograd.Function):
    """`gather`, which would keep the products for its backward pass, where only their number is needed."""

    @staticmethod
    def forward(ctx: Any, products: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.count = products.shape[3]
        return products.gather(3, index.expand(*products.shape[:3], -1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return grad.new_zeros(*grad.shape[:3], ctx.count).scatter_add_(3, index.expand(grad.shape), grad), None
