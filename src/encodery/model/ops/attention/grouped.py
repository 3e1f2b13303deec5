"""Attention on the CPU: sequences of similar length share one batched product, written directly to the packed result.

Chosen by measurement (bench/attention_cpu.py): weights are kept for the backward pass, in tiles that stay in cache;
long sequences use the flash kernel, which keeps none. Local attention over long sequences is computed in blocks.
Scores, softmax and their gradients are computed in fp32; what is then multiplied with values, queries and keys has
their dtype, as in flash kernels.
Shapes: T tokens, n sequences of a tile, L their longest, N heads, D head size, R longest of the batch.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from encodery.model.ops.attention import AttentionSpec
from encodery.model.ops.attention._banded import banded
from encodery.model.ops.attention._tiles import MASKED, AttentionTile, attention_tiles
from encodery.model.reach import Reach
from encodery.model.shape import Layout

FLASH = 512
"""Sequences longer than this use the flash kernel."""
BANDS = 10
"""Sequences longer than this many windows are computed in blocks."""


def attend(qkv: Tensor, layout: Layout, spec: AttentionSpec, bias: Tensor | None = None) -> Tensor:
    """qkv (T, 3, N, D) → (T, N, D)."""
    left, right = spec.reach.left, spec.reach.right
    prefix = layout.prefix if spec.prefix else None
    wide = 0 if left is None or right is None else max(left, right, 1)
    if not wide or spec.prefix or spec.reach.prefix or layout.max_seqlen <= BANDS * wide:
        return _tiled(qkv, bias, _Run(layout, spec.reach, prefix, 0, layout.lengths))
    parts, start = list[Tensor](), 0
    for long, run in itertools.groupby(layout.lengths, lambda length: length > BANDS * wide):
        lengths = tuple(run)
        if long:
            for length in lengths:
                parts.append(banded(qkv[start : start + length], spec.reach, bias))
                start += length
            continue
        piece = qkv[start : start + sum(lengths)]
        parts.append(_tiled(piece, bias, _Run(layout, spec.reach, None, start, lengths)))
        start += sum(lengths)
    return torch.cat(parts)


class _Run(NamedTuple):
    """Consecutive sequences of a batch, from the token `first` on, with their reach and their prefixes (n,)."""

    layout: Layout
    reach: Reach
    prefix: Tensor | None
    first: int
    lengths: tuple[int, ...]


def _tiled(qkv: Tensor, bias: Tensor | None, run: _Run) -> Tensor:
    """`_Tiled.apply`, typed."""
    mixed: Tensor = _Tiled.apply(qkv, bias, run)  # type: ignore[no-untyped-call]
    return mixed


class _Tiled(torch.autograd.Function):
    """Attention of consecutive sequences."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, bias: Tensor | None, run: _Run) -> Tensor:
        plan = _plan(run, qkv.shape[2])
        out = qkv.new_empty(qkv.shape[0], 1, *qkv.shape[2:])
        keep = any(ctx.needs_input_grad)
        kept: list[Tensor] = []
        for tile in plan:
            added = _added(tile, run, bias, _accurate(qkv.dtype))
            forward = _flash_forward if tile.length > FLASH and not ctx.needs_input_grad[1] else _forward
            saved = forward(tile, qkv, added, out)
            if keep:
                kept.append(saved)
        if keep:
            ctx.plan, ctx.run = plan, run
            ctx.save_for_backward(qkv, bias, out, *kept)
        return out[:, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        qkv, bias, out, *kept = ctx.saved_tensors
        grad, grad_qkv = grad.contiguous(), torch.empty_like(qkv)
        grad_bias = torch.zeros_like(bias) if ctx.needs_input_grad[1] else None
        for tile, saved in zip(ctx.plan, kept, strict=True):
            if tile.length > FLASH and grad_bias is None:
                added = _added(tile, ctx.run, bias, _accurate(qkv.dtype))
                _flash_backward(tile, qkv, added, out, saved, grad, grad_qkv)
            else:
                _backward(tile, qkv, saved, grad[:, None], grad_qkv, grad_bias)
        return grad_qkv, grad_bias, None


def _forward(tile: AttentionTile, qkv: Tensor, added: list[Tensor], out: Tensor) -> Tensor:
    """Compute attention within one tile, and return its weights (n·N, L, L) for the backward pass."""
    query, key, value = tile.take(qkv)
    count, length, size = query.shape
    wide = _accurate(qkv.dtype)
    scores = query.new_empty(count, length, length, dtype=wide)
    # `out=` keeps autocast from changing what is intentionally in fp32.
    torch.baddbmm(scores, query.to(wide), key.to(wide).transpose(1, 2), beta=0, alpha=size**-0.5, out=scores)
    for part in added:
        scores.view(tile.count, -1, length, length).add_(part)
    weights: Tensor = scores.softmax(-1).to(qkv.dtype)
    mixed = torch.bmm(weights, value, out=torch.empty_like(query))
    tile.put(mixed[None], out)
    return weights


def _backward(
    tile: AttentionTile, qkv: Tensor, weights: Tensor, grad: Tensor, grad_qkv: Tensor, grad_bias: Tensor | None
) -> None:
    query, key, value = tile.take(qkv)
    (grad_out,) = tile.take(grad)
    count, length, size = query.shape
    if not tile.even:
        grad_out.view(tile.count, -1, length, size).mul_(tile.real)
    wide = _accurate(qkv.dtype)
    grads = query.new_empty(3, count, length, size)
    torch.bmm(weights.transpose(1, 2), grad_out, out=grads[2])
    grad_weights = query.new_empty(count, length, length, dtype=wide)
    torch.bmm(grad_out.to(wide), value.to(wide).transpose(1, 2), out=grad_weights)
    grad_scores = torch._softmax_backward_data(grad_weights, weights.to(wide), -1, wide)
    if grad_bias is not None:
        _gather_bias(grad_scores.view(tile.count, -1, length, length).sum(0), grad_bias)
    grad_scores = grad_scores.mul_(size**-0.5).to(qkv.dtype)
    torch.bmm(grad_scores, key, out=grads[0])
    torch.bmm(grad_scores.transpose(1, 2), query, out=grads[1])
    tile.put(grads, grad_qkv)


def _gather_bias(grad: Tensor, grad_bias: Tensor) -> None:
    """Sum (N, L, L) by distance into (N, 2R - 1)."""
    index = (_distance(grad.shape[-1]) + grad_bias.shape[1] // 2).flatten()
    grad_bias.index_add_(1, index, grad.flatten(1).to(grad_bias.dtype))


def _flash_forward(tile: AttentionTile, qkv: Tensor, added: list[Tensor], out: Tensor) -> Tensor:
    """Compute attention of one long sequence, and return log-sum-exp of its scores (1, N, L) for the backward pass."""
    query, key, value = _views(qkv[tile.tokens], tile)
    mask = _mask(added, query)
    mixed, log_sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, False, attn_mask=mask
    )
    out[tile.tokens].view(-1, tile.length, *out.shape[2:]).copy_(mixed.transpose(1, 2))
    saved: Tensor = log_sums
    return saved


def _flash_backward(
    tile: AttentionTile,
    qkv: Tensor,
    added: list[Tensor],
    out: Tensor,
    log_sums: Tensor,
    grad: Tensor,
    grad_qkv: Tensor,
) -> None:
    query, key, value = _views(qkv[tile.tokens], tile)
    (mixed,) = _views(out[tile.tokens], tile)
    (grad_out,) = _views(grad[tile.tokens, None], tile)
    grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad_out, query, key, value, mixed, log_sums, 0.0, False, attn_mask=_mask(added, query)
    )
    for target, part in zip(_views(grad_qkv[tile.tokens], tile), grads, strict=True):
        target.copy_(part)


def _views(packed: Tensor, tile: AttentionTile) -> tuple[Tensor, ...]:
    """Tokens (n·L, kinds, N, D) as `kinds` views (n, N, L, D)."""
    return packed.view(tile.count, tile.length, *packed.shape[1:]).permute(2, 0, 3, 1, 4).unbind(0)


def _mask(added: list[Tensor], query: Tensor) -> Tensor | None:
    """The sum of what is added to scores, (1, 1 or N, L, L), in the dtype of the queries."""
    length = query.shape[2]
    parts = [part.expand(1, part.shape[-3] if part.dim() > 2 else 1, length, length) for part in added]
    return sum(parts[1:], parts[0]).to(query.dtype) if parts else None


def _plan(run: _Run, heads: int) -> list[AttentionTile]:
    """The tiles, computed once per batch."""
    key, memo = ("tiles", run.first, len(run.lengths), heads), run.layout.memo
    if key not in memo:
        memo[key] = list(attention_tiles(run.lengths, heads))
    plan: list[AttentionTile] = memo[key]
    return plan


def _added(tile: AttentionTile, run: _Run, bias: Tensor | None, dtype: torch.dtype) -> list[Tensor]:
    """What is added to the scores of a tile: tensors that broadcast to (n, N, L, L)."""
    parts: list[Tensor] = []
    if not tile.even:
        parts.append(tile.padding.to(dtype))
    reach = run.reach.within(tile.length)
    if not reach.is_unlimited:
        index = torch.arange(tile.length)
        prefix = None if run.prefix is None else run.prefix[tile.sequences][:, None, None, None]
        far = ~reach.allows(index[:, None], index, prefix)
        parts.append(torch.zeros(far.shape, dtype=dtype).masked_fill_(far, MASKED))
    if bias is not None:
        parts.append(_dense(bias, tile.length, run.layout, dtype))
    return parts


def _dense(bias: Tensor, length: int, layout: Layout, dtype: torch.dtype) -> Tensor:
    """The bias by distance (N, 2R - 1) as (N, L, L). The memo keeps that of the last bias: a bias that is learned is
    another tensor in each layer and each step."""
    key = ("dense bias", length, dtype)
    if key not in layout.memo or layout.memo[key][0] is not bias:
        index = _distance(length) + bias.shape[1] // 2
        layout.memo[key] = (bias, bias.detach()[:, index].to(dtype))
    dense: Tensor = layout.memo[key][1]
    return dense


def _distance(length: int) -> Tensor:
    """Key minus query (L, L)."""
    index = torch.arange(length)
    return index[None, :] - index[:, None]


def _accurate(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which scores are computed."""
    return torch.float64 if dtype == torch.float64 else torch.float32
