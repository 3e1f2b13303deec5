"""Linear correlation, and ranks to take it of, of numpy alone. Shapes: N items."""

from __future__ import annotations

import numpy as np


def ranks(values: np.ndarray) -> np.ndarray:
    """(N,) the rank of each value from 1; equal ones share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    found: np.ndarray = (last - (counts - 1) / 2)[place]
    return found


def correlation(left: np.ndarray, right: np.ndarray) -> float:
    """Of numbers (N,); 0 where either side does not vary."""
    if not np.ptp(left) or not np.ptp(right):
        return 0.0
    one, other = left - left.mean(), right - right.mean()
    # Of unit length each, so that the product of the lengths can neither vanish nor overflow.
    one, other = one / np.linalg.norm(one), other / np.linalg.norm(other)
    return float(np.clip(one @ other, -1.0, 1.0))
