"""Cosines of pairs of texts, each distinct text encoded once. Shapes: N pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from encodery.evaluate.systems import OpenSystem, UnsupportedEvaluation, unit_length


def cosines(system: OpenSystem, left: Sequence[str], right: Sequence[str]) -> np.ndarray:
    """(N,) float64. Raises `Incapable` where the system compares only queries with documents."""
    if not system.symmetric:
        raise UnsupportedEvaluation(f"{system.name}: finds documents for queries; it does not compare two texts.")
    texts = list(dict.fromkeys([*left, *right]))
    place = {text: number for number, text in enumerate(texts)}
    system.fit(texts)
    vectors = unit_length(system.encode(texts))
    one = vectors[[place[text] for text in left]]
    other = vectors[[place[text] for text in right]]
    if isinstance(vectors, np.ndarray):
        found: np.ndarray = np.einsum("nk,nk->n", one, other, dtype=np.float64)
        return found
    return np.asarray(one.multiply(other).sum(1), np.float64).ravel()


def as_ranks(values: np.ndarray) -> np.ndarray:
    """Values (N,) as their ranks, equal ones with their mean: what makes the scores of two systems swappable."""
    from encodery.base.extras import require

    ranks: np.ndarray = require("scipy.stats", "evaluate").rankdata(values)
    return ranks
