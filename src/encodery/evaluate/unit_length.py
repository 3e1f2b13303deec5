"""Scale embeddings to unit length."""

from __future__ import annotations

from typing import Any

import numpy as np


def unit_length(vectors: Any) -> Any:
    """Return rows (N, K) at unit length; rows of zeros and sparsity are kept."""
    if isinstance(vectors, np.ndarray):
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    from encodery.base.extras import require

    return require("sklearn.preprocessing", "evaluate").normalize(vectors)
