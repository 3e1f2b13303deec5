"""Cross entropy of a decoder over the vocabulary, at chosen rows only.

Both files offer `masked_cross_entropy(features (M, E), weight (V, E), bias (V,) | None, targets (M,), z_loss)` and
give `Loss`. A row with a negative target counts for nothing (a spare slot of a corruption with a fixed number of
rows): it adds no loss and no gradient, its `nll` is 0 and it is not `correct`. `naive` makes all logits (M, V) and is
the truth; `chunked` never holds more than a few rows of them.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class CrossEntropyResult(NamedTuple):
    """`total`: sum over rows of -log p(target) + z_loss · log(Σ exp logits)², a scalar in fp32 (fp64 for fp64);
    `nll` (M,) the first summand of each row and `correct` (M,) bool, whether no other token scores higher; both
    detached."""

    total: Tensor
    nll: Tensor
    correct: Tensor
