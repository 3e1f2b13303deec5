"""Linear correlation and ranks, computed with numpy only. Shapes: N items."""

from __future__ import annotations

import numpy as np


def ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value (N,), counted from 1; equal values get the mean of their ranks."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    result: np.ndarray = (last - (counts - 1) / 2)[group]
    return result


def correlation(left: np.ndarray, right: np.ndarray) -> float:
    """Return the linear correlation of two series of numbers (N,); 0 if either is constant."""
    if not np.ptp(left) or not np.ptp(right):
        return 0.0
    left, right = left - left.mean(), right - right.mean()
    # Each is normalised to length 1 first, since the product of the lengths could underflow or overflow.
    left, right = left / np.linalg.norm(left), right / np.linalg.norm(right)
    return float(np.clip(left @ right, -1.0, 1.0))
