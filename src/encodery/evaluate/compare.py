"""Intervals by resampling groups of documents: how far a figure would move on other text of the same kind.

Groups, not tokens, are drawn, since the tokens of one document are not independent of each other. Shapes: G groups.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

RESAMPLES = 1000
SHARE = 0.95
Groups = npt.NDArray[np.float64]


def interval(sums: Groups, counts: Groups, seed: int = 0) -> tuple[float, float] | None:
    """The 95 % interval of Σ sums / Σ counts, both (G,); None below eight groups, where it would mean nothing."""
    means = _resampled(sums, counts, seed)
    return None if means is None else _middle(means)


def difference(one: Groups, other: Groups, counts: Groups, seed: int = 0) -> tuple[float, float] | None:
    """The 95 % interval of the mean of `other` minus that of `one`, on the same groups (G,) with the same counts."""
    means = _resampled(other - one, counts, seed)
    return None if means is None else _middle(means)


def _resampled(sums: Groups, counts: Groups, seed: int) -> Groups | None:
    if len(sums) < 8:
        return None
    drawn = np.random.default_rng(seed).integers(0, len(sums), (RESAMPLES, len(sums)))
    means: Groups = sums[drawn].sum(1) / counts[drawn].sum(1)
    return means


def _middle(values: Groups) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - SHARE) / 2, (1 + SHARE) / 2])
    return float(low), float(high)
