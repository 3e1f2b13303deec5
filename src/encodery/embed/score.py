"""Held-out figures of an embedding under training: what is found first, how scores agree, who the neighbours are.

Plain matrix products over a few hundred or thousand vectors. Shapes: E examples, C columns, K width.
"""

from __future__ import annotations

import numpy as np

DEPTH = 10


def retrieval(vectors: np.ndarray, numbers: np.ndarray) -> dict[str, float]:
    """Vectors (P, K) of the texts, examples (E, C) as numbers into them: is each anchor's partner found?

    Every text of column 1 and after is searched; an anchor that occurs in several examples has several right answers.
    `ndcg` and `mrr` look at the first ten. The anchor itself, where it is among the texts, is passed over.
    """
    anchors, where = np.unique(numbers[:, 0], return_inverse=True)
    documents = np.unique(numbers[:, 1:])
    right = np.zeros((len(anchors), len(documents)), bool)
    right[where, np.searchsorted(documents, numbers[:, 1])] = True
    scores = vectors[anchors] @ vectors[documents].T
    scores[anchors[:, None] == documents[None, :]] = -np.inf
    depth = min(DEPTH, len(documents))
    best = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    found = np.take_along_axis(right, best, axis=1)
    discount = 1 / np.log2(np.arange(2, depth + 2))
    ideal = np.concatenate([[0.0], discount.cumsum()])[np.minimum(right.sum(1), depth)]
    first = np.where(found.any(1), 1 / (found.argmax(1) + 1), 0.0)
    return {"ndcg": float(((found @ discount) / ideal).mean()), "mrr": float(first.mean())}


def agreement(vectors: np.ndarray, numbers: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Rank correlation of the pairs' similarities with their scores (E,); nothing where it is not defined."""
    similarity = (vectors[numbers[:, 0]] * vectors[numbers[:, 1]]).sum(1)
    if len(np.unique(target)) < 2 or len(np.unique(similarity)) < 2:
        return {}
    return {"spearman": float(np.corrcoef(_ranks(target), _ranks(similarity))[0, 1])}


def neighbours(vectors: np.ndarray, numbers: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """How often a text's nearest other text is of its class; nothing for fewer than two texts."""
    if len(numbers) < 2:
        return {}
    found = vectors[numbers[:, 0]]
    similarity = found @ found.T
    np.fill_diagonal(similarity, -np.inf)
    return {"neighbour": float((target[similarity.argmax(1)] == target).mean())}


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks of values, equal ones sharing the mean of theirs."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(counts) - (counts - 1) / 2)[where]
    return ranks
