"""Selection of negatives among candidates. Shapes: n candidates, N negatives."""

from __future__ import annotations

import numpy as np


def first_negatives(candidates: np.ndarray, positives: np.ndarray, num_negatives: int) -> np.ndarray:
    """Return the first N of the candidates (n,) that are no positives, in their order; -1 where there are too few."""
    kept = candidates[~np.isin(candidates, positives)][:num_negatives]
    return np.concatenate([kept, np.full(num_negatives - len(kept), -1, np.int64)]).astype(np.int64)
