"""Cross entropy a few rows at a time: logits become gradients while they are still in cache, and are never kept.

The forward pass already makes the gradients (for a sum, known up to one factor); the backward pass scales them. So
a backward pass may follow once only. Softmax stays unnormalised: its sums multiply the narrow side of each product.
Shapes: M rows, E embedding width, V vocabulary, m rows of a chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from encodery.base.errors import ProgrammerError
from encodery.model.ops.masked_cross_entropy import CrossEntropyResult

LOGITS_CPU = 2**22  # of one chunk at most: 256 rows of 16,384, 16 MiB; measured, see bench/LOG.md
LOGITS_ELSEWHERE = 2**26  # 256 MiB in fp32: large products, little memory


def masked_cross_entropy(
    features: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, z_loss: float = 0.0
) -> CrossEntropyResult:
    """features (M, E), weight (V, E), bias (V,), targets (M,) → `Loss`; products in the dtype of the features, or
    of autocast where it is on, sums in fp32 (fp64 for fp64)."""
    if not torch.is_grad_enabled():  # a parameter asks for its gradient even then
        features, weight, bias = features.detach(), weight.detach(), None if bias is None else bias.detach()
    if torch.compiler.is_compiling():
        dtype = _products(features)
        total, nll, correct, *_ = _opaque(features.to(dtype), weight, bias, targets, z_loss)
        return CrossEntropyResult(total, nll.detach(), correct)
    return CrossEntropyResult(*_Chunked.apply(features, weight, bias, targets, z_loss))  # type: ignore[no-untyped-call]


class _Grads:
    """Gradients under way: sums over chunks, in fp32 or fp64; None where nobody asks."""

    def __init__(self, features: Tensor, weight: Tensor, bias: Tensor | None, needs: tuple[bool, ...]) -> None:
        wide = _wide(features.dtype)
        self.features = torch.empty_like(features) if needs[0] else None
        self.weight = torch.empty(weight.shape, dtype=wide, device=weight.device) if needs[1] else None
        self.bias = torch.zeros_like(bias, dtype=wide) if needs[2] and bias is not None else None

    def add(self, start: int, excess: Tensor, narrow: Tensor, factor: Tensor, rows: Tensor, low: Tensor) -> None:
        """A chunk whose gradient by logits is `factor` (m, 1) times `excess` (m, V); `narrow` that in the dtype of
        products, as the weight `low` is; `rows` (m, E) its features."""
        if self.features is not None:
            torch.mul(narrow @ low, factor, out=self.features[start : start + len(rows)])
        if self.weight is not None:
            scaled = (rows * factor).to(low.dtype)
            if low.dtype == self.weight.dtype:
                torch.addmm(self.weight, narrow.t(), scaled, beta=float(start > 0), out=self.weight)
            elif start:
                self.weight += narrow.t() @ scaled
            else:
                self.weight.copy_(narrow.t() @ scaled)
        if self.bias is not None:
            self.bias.addmv_(excess.t(), factor[:, 0])


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, z_loss: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype = _products(features)
        ctx.dtypes = (features.dtype, weight.dtype, None if bias is None else bias.dtype)
        with torch.autocast(features.device.type, enabled=False):
            rows, low = features.to(dtype), weight.to(dtype)
            grads = _Grads(rows, weight, bias, ctx.needs_input_grad)
            total, nll, correct = _run(grads, rows, low, bias, targets, z_loss)
        ctx.grads = grads
        ctx.mark_non_differentiable(nll, correct)
        return total, nll, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        grads, ctx.grads = ctx.grads, None
        if grads is None:
            raise ProgrammerError("The backward pass of chunked cross entropy may run once only.")
        made = (grads.features, grads.weight, grads.bias)
        scaled = [None if g is None else g.mul_(grad).to(d) for g, d in zip(made, ctx.dtypes, strict=True)]
        return (*scaled, None, None)


@torch.library.custom_op("encodery::masked_cross_entropy", mutates_args=())
def _opaque(
    features: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, z_loss: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What a compiled graph sees of this file: total, nll, correct, and the gradients of features, weight and bias (of
    no length where there is none)."""
    grads = _Grads(features, weight, bias, (True, True, bias is not None))
    with torch.autocast(features.device.type, enabled=False):
        found = _run(grads, features, weight.to(features.dtype), bias, targets, z_loss)
    assert grads.features is not None
    assert grads.weight is not None
    return (*found, grads.features, grads.weight, weight.new_empty(0) if grads.bias is None else grads.bias)


@_opaque.register_fake
def _shapes(
    features: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, z_loss: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    wide = _wide(features.dtype)
    rows = features.new_empty(targets.shape, dtype=wide)
    made = torch.empty_like(features), torch.empty_like(weight, dtype=wide)
    below = weight.new_empty(0) if bias is None else torch.empty_like(bias, dtype=wide)
    return features.new_empty((), dtype=wide), rows, torch.empty_like(targets, dtype=torch.bool), *made, below


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    features, weight, bias, _, _ = inputs
    ctx.dtypes = (features.dtype, weight.dtype, None if bias is None else bias.dtype)
    ctx.save_for_backward(*output[3:])


def _scaled(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    made = [
        None if kind is None else (g * grad).to(kind) for g, kind in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
    ]
    return (*made, None, None)


_opaque.register_autograd(_scaled, setup_context=_keep)


def _products(features: Tensor) -> torch.dtype:
    """The dtype of products: autocast's where it is on."""
    kind = features.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else features.dtype


def _run(
    grads: _Grads, rows: Tensor, low: Tensor, bias: Tensor | None, targets: Tensor, z_loss: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, its rows and whether each is correct; fills `grads`."""
    wide = _wide(rows.dtype)
    size = _chunk(len(rows), low)
    # Two buffers for all chunks: what products give and take, and what sums are made of.
    buffer = rows.new_empty(size, len(low))
    sure = buffer if rows.dtype == wide else torch.empty_like(buffer, dtype=wide)
    low_bias = None if bias is None else bias.to(low.dtype)
    real = targets >= 0
    spread, chosen = rows.new_empty(len(rows), dtype=wide), rows.new_empty(len(rows), dtype=wide)
    correct = torch.empty_like(real)
    training = any(g is not None for g in (grads.features, grads.weight, grads.bias))
    if not len(rows) and grads.weight is not None:
        grads.weight.zero_()
    for start in range(0, len(rows), size):
        part = slice(start, min(start + size, len(rows)))
        target = targets[part, None].clamp_min(0)
        narrow, logits = buffer[: part.stop - start], sure[: part.stop - start]
        if low_bias is None:
            torch.mm(rows[part], low.t(), out=narrow)
        else:
            torch.addmm(low_bias, rows[part], low.t(), out=narrow)
        if logits.dtype != narrow.dtype:
            logits.copy_(narrow)
        chosen[part] = logits.gather(1, target)[:, 0]
        highest = logits.amax(1, keepdim=True)
        correct[part] = chosen[part] >= highest[:, 0]
        sums = logits.sub_(highest).exp_().sum(1, keepdim=True)
        log_sums = highest + sums.log()
        spread[part] = log_sums[:, 0]
        if training:
            # d total / d logit = (1 + 2z·lse)·softmax - [target], with the softmax's sum and the padding in `factor`.
            weighted = 1 + 2 * z_loss * log_sums
            logits.scatter_add_(1, target, -sums / weighted)
            factor = weighted / sums * real[part, None]
            if logits.dtype != narrow.dtype:
                narrow.copy_(logits)
            grads.add(start, logits, narrow, factor, rows[part], low)
    nll = (spread - chosen).masked_fill_(~real, 0.0)
    total = nll.sum() + z_loss * spread.square().masked_fill_(~real, 0.0).sum()
    return total, nll, correct.logical_and_(real)


def _chunk(count: int, weight: Tensor) -> int:
    """Rows of a chunk: all chunks alike, none with more logits than the device likes."""
    limit = LOGITS_CPU if weight.device.type == "cpu" else LOGITS_ELSEWHERE
    chunks = max(1, -(-count * len(weight) // limit))
    return max(1, -(-count // chunks))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
