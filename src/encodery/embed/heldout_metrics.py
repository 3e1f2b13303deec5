"""Metrics of dev and test examples: retrieval, rank correlation, nearest neighbours.

Similarities of many texts are computed for some anchors at a time. Shapes: P texts, E examples, C columns, N and M
texts that are compared, K dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from encodery.embed.examples import EmbeddingExamples

DEPTH = 10
SIMILARITIES_AT_ONCE = 1 << 25
METRIC_NAMES = ("ndcg", "mrr", "spearman", "neighbour")
"""The metrics of all shapes of data."""


class EncodedTexts(Protocol):
    """P encoded texts, given by index."""

    def cross(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return the similarities (N, M) of N texts with M texts."""

    def pairs(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return the similarities (N,) of N pairs of texts."""


@dataclass(frozen=True, eq=False)
class EncodedVectors:
    """Texts with one vector each, `vectors` (P, K), compared by dot product."""

    vectors: np.ndarray

    def cross(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """See `EncodedTexts`."""
        similarity: np.ndarray = self.vectors[first] @ self.vectors[second].T
        return similarity

    def pairs(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """See `EncodedTexts`."""
        similarity: np.ndarray = (self.vectors[first] * self.vectors[second]).sum(1)
        return similarity


def compute_metrics(texts: EncodedTexts, indices: np.ndarray, data: EmbeddingExamples) -> dict[str, float]:
    """Return the metrics of examples, given as indices (E, C) of texts.

    Nearest-neighbour accuracy for classes, rank correlation for scored pairs, retrieval metrics otherwise; nothing for
    raw sentences, and where a metric is not defined.
    """
    if data.target_kind == "label":
        assert data.target is not None
        return nearest_neighbour_accuracy(texts, indices, data.target)
    if data.target_kind == "score":
        assert data.target is not None
        return rank_correlation(texts, indices, data.target)
    return {} if data.raw else retrieval_metrics(texts, indices)


def has_metrics(data: EmbeddingExamples) -> bool:
    """Return whether metrics are defined for the data: not for raw sentences, equal scores, or a single text."""
    if data.target_kind == "score":
        return data.target is not None and len(np.unique(data.target)) > 1
    return not data.raw and len(data) > (data.target_kind == "label")


def retrieval_metrics(texts: EncodedTexts, indices: np.ndarray) -> dict[str, float]:
    """Return nDCG@10 and MRR@10 of finding the positive of each anchor, for examples (E, C).

    All texts of column 1 and after are searched. The positives of equal anchors are all relevant. The anchor itself is
    left out of its results.
    """
    anchors, anchor_of = np.unique(indices[:, 0], return_inverse=True)
    documents = np.unique(indices[:, 1:])
    positive = np.searchsorted(documents, indices[:, 1])
    depth = min(DEPTH, len(documents))
    discount = 1 / np.log2(np.arange(2, depth + 2))
    gains, reciprocal_ranks = [], []
    for some in _blocks(len(anchors), len(documents)):
        relevant = np.zeros((len(some), len(documents)), bool)
        examples = (anchor_of >= some[0]) & (anchor_of <= some[-1])
        relevant[anchor_of[examples] - some[0], positive[examples]] = True
        scores = texts.cross(anchors[some], documents)
        scores[anchors[some, None] == documents[None, :]] = -np.inf
        best = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
        hits = np.take_along_axis(relevant, best, axis=1)
        ideal = np.concatenate([[0.0], discount.cumsum()])[np.minimum(relevant.sum(1), depth)]
        gains.append((hits @ discount) / ideal)
        reciprocal_ranks.append(np.where(hits.any(1), 1 / (hits.argmax(1) + 1), 0.0))
    return {"ndcg": float(np.concatenate(gains).mean()), "mrr": float(np.concatenate(reciprocal_ranks).mean())}


def rank_correlation(texts: EncodedTexts, indices: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Return Spearman's correlation of the pairs' similarities with their scores (E,); nothing if it is undefined."""
    similarity = texts.pairs(indices[:, 0], indices[:, 1])
    if len(np.unique(target)) < 2 or len(np.unique(similarity)) < 2:
        return {}
    return {"spearman": float(np.corrcoef(_ranks(target), _ranks(similarity))[0, 1])}


def nearest_neighbour_accuracy(texts: EncodedTexts, indices: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Return the fraction of texts whose nearest other text is of the same class; nothing for fewer than two texts."""
    if len(indices) < 2:
        return {}
    correct = []
    for some in _blocks(len(indices), len(indices)):
        similarity = texts.cross(indices[some, 0], indices[:, 0])
        similarity[np.arange(len(some)), some] = -np.inf
        correct.append(target[similarity.argmax(1)] == target[some])
    return {"neighbour": float(np.concatenate(correct).mean())}


def _blocks(rows: int, columns: int) -> Iterator[np.ndarray]:
    """The indices of the rows, in order, in blocks whose similarities with all columns can be held in memory."""
    at_once = max(SIMILARITIES_AT_ONCE // max(columns, 1), 1)
    for first in range(0, rows, at_once):
        yield np.arange(first, min(first + at_once, rows))


def _ranks(values: np.ndarray) -> np.ndarray:
    """The ranks of values; equal values have the mean of their ranks."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(counts) - (counts - 1) / 2)[group]
    return ranks
