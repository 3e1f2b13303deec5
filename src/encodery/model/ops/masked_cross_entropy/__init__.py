"""Cross entropy of a decoder over the vocabulary, at selected positions only.

Both implementations have `masked_cross_entropy(features (M, E), weight (V, E), bias (V,) | None, targets (M,), z_loss)`
and return a `CrossEntropyResult`. A position with a negative target is ignored (a spare one of a corruption with a
fixed number of positions): it adds no loss and no gradient, its `nll` is 0 and it is not `correct`. `naive` computes
all logits (M, V) and is the reference; `chunked` never holds more than a chunk of them.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class CrossEntropyResult(NamedTuple):
    """`total`: sum over positions of -log p(target) + z_loss · log(Σ exp logits)², a scalar in fp32 (fp64 for fp64);
    `nll` (M,): the first summand of each position; `correct` (M,) bool: whether no other token scores higher; both
    detached."""

    total: Tensor
    nll: Tensor
    correct: Tensor
