"""The first candidates that may be taken. Shapes: n candidates, N taken."""

from __future__ import annotations

import numpy as np


def first_negatives(candidates: np.ndarray, positives: np.ndarray, num_negatives: int) -> np.ndarray:
    """(N,) of the candidates (n,), in their order, those not among `right`; -1 where there are too few."""
    kept = candidates[~np.isin(candidates, positives)][:num_negatives]
    return np.concatenate([kept, np.full(num_negatives - len(kept), -1, np.int64)]).astype(np.int64)
