"""Cross entropy in chunks of positions: logits become gradients while they are in cache, and are not kept.

The forward pass computes the gradients of the sum already; the backward pass scales them, so it can run only once. The
softmax stays unnormalised: its sums multiply the smaller factor of each product.
Shapes: M positions, E embedding size, V vocabulary, m positions of a chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from encodery.base.errors import ProgrammerError
from encodery.model.ops.masked_cross_entropy import CrossEntropyResult

LOGITS_CPU = 2**22
"""Logits of one chunk on the CPU: 256 positions of 16,384 tokens, 16 MiB; measured, see bench/LOG.md."""
LOGITS_ELSEWHERE = 2**26
"""Logits of one chunk on other devices, 256 MiB in fp32: large products, little memory."""


def masked_cross_entropy(
    features: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, z_loss: float = 0.0
) -> CrossEntropyResult:
    """features (M, E), weight (V, E), bias (V,), targets (M,) → `CrossEntropyResult`; products are in the dtype of the
    features (under autocast: its dtype), sums in fp32 (fp64 for fp64)."""
    if not torch.is_grad_enabled():  # Without this, parameters would still require gradients.
        features, weight, bias = features.detach(), weight.detach(), None if bias is None else bias.detach()
    if torch.compiler.is_compiling():
        dtype = _products(features)
        total, nll, correct, *_ = _opaque(features.to(dtype), weight, bias, targets, z_loss)
        return CrossEntropyResult(total, nll.detach(), correct)
    return CrossEntropyResult(*_Chunked.apply(features, weight, bias, targets, z_loss))  # type: ignore[no-untyped-call]


class _Grads:
    """Gradients, accumulated over chunks in fp32 or fp64; None for what needs none."""

    def __init__(self, features: Tensor, weight: Tensor, bias: Tensor | None, needs: tuple[bool, ...]) -> None:
        wide = _wide(features.dtype)
        self.features = torch.empty_like(features) if needs[0] else None
        self.weight = torch.empty(weight.shape, dtype=wide, device=weight.device) if needs[1] else None
        self.bias = torch.zeros_like(bias, dtype=wide) if needs[2] and bias is not None else None

    def add(
        self, start: int, gradient: Tensor, low_gradient: Tensor, factor: Tensor, features: Tensor, low_weight: Tensor
    ) -> None:
        """Add a chunk of positions.

        Args:
            start: The first position.
            gradient: That of the logits (m, V), up to `factor`.
            low_gradient: The same in the dtype of products.
            factor: What the gradient is multiplied by (m, 1).
            features: Those of the chunk (m, E).
            low_weight: The decoder's weight (V, E) in the dtype of products.
        """
        if self.features is not None:
            torch.mul(low_gradient @ low_weight, factor, out=self.features[start : start + len(features)])
        if self.weight is not None:
            scaled = (features * factor).to(low_weight.dtype)
            if low_weight.dtype == self.weight.dtype:
                torch.addmm(self.weight, low_gradient.t(), scaled, beta=float(start > 0), out=self.weight)
            elif start:
                self.weight += low_gradient.t() @ scaled
            else:
                self.weight.copy_(low_gradient.t() @ scaled)
        if self.bias is not None:
            self.bias.addmv_(gradient.t(), factor[:, 0])


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, z_loss: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype = _products(features)
        ctx.dtypes = (features.dtype, weight.dtype, None if bias is None else bias.dtype)
        with torch.autocast(features.device.type, enabled=False):
            low_features, low_weight = features.to(dtype), weight.to(dtype)
            grads = _Grads(low_features, weight, bias, ctx.needs_input_grad)
            total, nll, correct = _run(grads, low_features, low_weight, bias, targets, z_loss)
        ctx.grads = grads
        ctx.mark_non_differentiable(nll, correct)
        return total, nll, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        grads, ctx.grads = ctx.grads, None
        if grads is None:
            raise ProgrammerError("The backward pass of chunked cross entropy can run only once.")
        gradients = (grads.features, grads.weight, grads.bias)
        scaled = [None if g is None else g.mul_(grad).to(d) for g, d in zip(gradients, ctx.dtypes, strict=True)]
        return (*scaled, None, None)


@torch.library.custom_op("encodery::masked_cross_entropy", mutates_args=())
def _opaque(
    features: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, z_loss: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The operation of a compiled graph: total, nll, correct, and the gradients of features, weight and bias (empty
    without a bias)."""
    grads = _Grads(features, weight, bias, (True, True, bias is not None))
    with torch.autocast(features.device.type, enabled=False):
        results = _run(grads, features, weight.to(features.dtype), bias, targets, z_loss)
    assert grads.features is not None
    assert grads.weight is not None
    return (*results, grads.features, grads.weight, weight.new_empty(0) if grads.bias is None else grads.bias)


@_opaque.register_fake
def _shapes(
    features: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, z_loss: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    wide = _wide(features.dtype)
    nll = features.new_empty(targets.shape, dtype=wide)
    gradients = torch.empty_like(features), torch.empty_like(weight, dtype=wide)
    bias_gradient = weight.new_empty(0) if bias is None else torch.empty_like(bias, dtype=wide)
    correct = torch.empty_like(targets, dtype=torch.bool)
    return features.new_empty((), dtype=wide), nll, correct, *gradients, bias_gradient


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    features, weight, bias, _, _ = inputs
    ctx.dtypes = (features.dtype, weight.dtype, None if bias is None else bias.dtype)
    ctx.save_for_backward(*output[3:])


def _scaled(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    gradients = [
        None if dtype is None else (g * grad).to(dtype) for g, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
    ]
    return (*gradients, None, None)


_opaque.register_autograd(_scaled, setup_context=_keep)


def _products(features: Tensor) -> torch.dtype:
    """The dtype of products: under autocast its dtype, otherwise that of the features."""
    kind = features.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else features.dtype


def _run(
    grads: _Grads, features: Tensor, low_weight: Tensor, bias: Tensor | None, targets: Tensor, z_loss: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the total loss, the loss of each position, and whether each is correct; adds to `grads`."""
    wide = _wide(features.dtype)
    size = _chunk(len(features), low_weight)
    # Two buffers for all chunks: one in the dtype of products, one in the dtype of sums.
    low_buffer = features.new_empty(size, len(low_weight))
    buffer = low_buffer if features.dtype == wide else torch.empty_like(low_buffer, dtype=wide)
    low_bias = None if bias is None else bias.to(low_weight.dtype)
    real = targets >= 0
    log_sum, target_logit = (features.new_empty(len(features), dtype=wide) for _ in range(2))
    correct = torch.empty_like(real)
    training = any(g is not None for g in (grads.features, grads.weight, grads.bias))
    if not len(features) and grads.weight is not None:
        grads.weight.zero_()
    for start in range(0, len(features), size):
        part = slice(start, min(start + size, len(features)))
        target = targets[part, None].clamp_min(0)
        low_logits, logits = low_buffer[: part.stop - start], buffer[: part.stop - start]
        if low_bias is None:
            torch.mm(features[part], low_weight.t(), out=low_logits)
        else:
            torch.addmm(low_bias, features[part], low_weight.t(), out=low_logits)
        if logits.dtype != low_logits.dtype:
            logits.copy_(low_logits)
        target_logit[part] = logits.gather(1, target)[:, 0]
        highest = logits.amax(1, keepdim=True)
        correct[part] = target_logit[part] >= highest[:, 0]
        sums = logits.sub_(highest).exp_().sum(1, keepdim=True)
        log_sums = highest + sums.log()
        log_sum[part] = log_sums[:, 0]
        if training:
            # d total / d logit = (1 + 2z·lse)·softmax - [target]; `factor` has the softmax's sum and ignored positions.
            weighted = 1 + 2 * z_loss * log_sums
            logits.scatter_add_(1, target, -sums / weighted)
            factor = weighted / sums * real[part, None]
            if logits.dtype != low_logits.dtype:
                low_logits.copy_(logits)
            grads.add(start, logits, low_logits, factor, features[part], low_weight)
    nll = (log_sum - target_logit).masked_fill_(~real, 0.0)
    total = nll.sum() + z_loss * log_sum.square().masked_fill_(~real, 0.0).sum()
    return total, nll, correct.logical_and_(real)


def _chunk(count: int, weight: Tensor) -> int:
    """The positions of a chunk: chunks of equal size, none with more logits than the limit of the device."""
    limit = LOGITS_CPU if weight.device.type == "cpu" else LOGITS_ELSEWHERE
    chunks = max(1, -(-count * len(weight) // limit))
    return max(1, -(-count // chunks))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
