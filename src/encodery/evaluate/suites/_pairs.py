"""Cosine similarities of pairs of texts; each distinct text is encoded once. Shapes: N pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from encodery.evaluate.systems import OpenSystem, UnsupportedEvaluation
from encodery.evaluate.unit_length import unit_length


def cosines(system: OpenSystem, left: Sequence[str], right: Sequence[str]) -> np.ndarray:
    """Return the cosines (N,) float64. Raises `UnsupportedEvaluation` if the system only retrieves documents."""
    if not system.symmetric:
        raise UnsupportedEvaluation(f"{system.name}: retrieves documents for queries and cannot compare two texts.")
    texts = list(dict.fromkeys([*left, *right]))
    number_of = {text: number for number, text in enumerate(texts)}
    system.fit(texts)
    vectors = unit_length(system.encode(texts))
    one = vectors[[number_of[text] for text in left]]
    other = vectors[[number_of[text] for text in right]]
    if isinstance(vectors, np.ndarray):
        products: np.ndarray = np.einsum("nk,nk->n", one, other, dtype=np.float64)
        return products
    return np.asarray(one.multiply(other).sum(1), np.float64).ravel()


def as_ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks of values (N,), the mean rank for equal ones, so that scores of two systems are exchangeable."""
    from encodery.base.extras import require

    ranks: np.ndarray = require("scipy.stats", "evaluate").rankdata(values)
    return ranks
