"""The length that attention costs are computed from, and random samples that hold a number of tokens."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from encodery.tokens.shuffle import Integers


def attended_length(lengths: npt.ArrayLike) -> int:
    """The mean length over the tokens of sequences of these lengths (B,), Σ length² / Σ length, to a multiple of 8:
    what `model.count.flops_per_token` takes for the length of the sequences."""
    sizes = np.asarray(lengths, np.int64)
    return round(float((sizes * sizes).sum()) / max(int(sizes.sum()), 1) / 8) * 8


def sample_tokens(lengths: npt.ArrayLike, tokens: int, seed: int) -> Integers:
    """Indices, in order, of randomly drawn items that hold about `tokens` tokens; `lengths` (N,) are those of the
    items. Equal arguments give equal indices."""
    sizes = np.asarray(lengths)
    order = np.random.default_rng(seed).permutation(len(sizes))
    count = int(np.searchsorted(np.cumsum(sizes[order]), tokens)) + 1
    return np.sort(order[:count])
