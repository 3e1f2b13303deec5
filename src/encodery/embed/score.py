"""Held-out figures of an embedding under training: what is found first, how scores agree, who the neighbours are.

Over a few hundred or thousand texts. Shapes: P texts, E examples, C columns, K width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

DEPTH = 10


class Compared(Protocol):
    """P encoded texts, by number."""

    def cross(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """(N, M) similarity of each of N texts with each of M."""

    def pairs(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """(N,) similarity of N texts with N texts, one by one."""


@dataclass(frozen=True, eq=False)
class Vectors:
    """Texts with one vector each: `rows` (P, K), compared by their products."""

    rows: np.ndarray

    def cross(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """See `Compared`."""
        found: np.ndarray = self.rows[one] @ self.rows[other].T
        return found

    def pairs(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """See `Compared`."""
        found: np.ndarray = (self.rows[one] * self.rows[other]).sum(1)
        return found


def retrieval(texts: Compared, numbers: np.ndarray) -> dict[str, float]:
    """Examples (E, C) as numbers of texts: is each anchor's partner found?

    Every text of column 1 and after is searched; an anchor that occurs in several examples has several right answers.
    `ndcg` and `mrr` look at the first ten. The anchor itself, where it is among the texts, is passed over.
    """
    anchors, where = np.unique(numbers[:, 0], return_inverse=True)
    documents = np.unique(numbers[:, 1:])
    right = np.zeros((len(anchors), len(documents)), bool)
    right[where, np.searchsorted(documents, numbers[:, 1])] = True
    scores = texts.cross(anchors, documents)
    scores[anchors[:, None] == documents[None, :]] = -np.inf
    depth = min(DEPTH, len(documents))
    best = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    found = np.take_along_axis(right, best, axis=1)
    discount = 1 / np.log2(np.arange(2, depth + 2))
    ideal = np.concatenate([[0.0], discount.cumsum()])[np.minimum(right.sum(1), depth)]
    first = np.where(found.any(1), 1 / (found.argmax(1) + 1), 0.0)
    return {"ndcg": float(((found @ discount) / ideal).mean()), "mrr": float(first.mean())}


def agreement(texts: Compared, numbers: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Rank correlation of the pairs' similarities with their scores (E,); nothing where it is not defined."""
    similarity = texts.pairs(numbers[:, 0], numbers[:, 1])
    if len(np.unique(target)) < 2 or len(np.unique(similarity)) < 2:
        return {}
    return {"spearman": float(np.corrcoef(_ranks(target), _ranks(similarity))[0, 1])}


def neighbours(texts: Compared, numbers: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """How often a text's nearest other text is of its class; nothing for fewer than two texts."""
    if len(numbers) < 2:
        return {}
    similarity = texts.cross(numbers[:, 0], numbers[:, 0])
    np.fill_diagonal(similarity, -np.inf)
    return {"neighbour": float((target[similarity.argmax(1)] == target).mean())}


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks of values, equal ones sharing the mean of theirs."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(counts) - (counts - 1) / 2)[where]
    return ranks
