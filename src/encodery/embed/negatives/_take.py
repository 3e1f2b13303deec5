"""The first candidates that may be taken. Shapes: n candidates, N taken."""

from __future__ import annotations

import numpy as np


def first_wrong(candidates: np.ndarray, right: np.ndarray, count: int) -> np.ndarray:
    """(N,) of the candidates (n,), in their order, those not among `right`; -1 where there are too few."""
    kept = candidates[~np.isin(candidates, right)][:count]
    return np.concatenate([kept, np.full(count - len(kept), -1, np.int64)]).astype(np.int64)
