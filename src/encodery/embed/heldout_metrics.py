"""Figures of held-out and of test rows: what is found first, how scores agree, who the neighbours are.

Of many texts, some anchors at a time are held against the others. Shapes: P texts, E examples, C columns, K width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from encodery.embed.examples import EmbeddingExamples

DEPTH = 10
SIMILARITIES_AT_ONCE = 1 << 25  # Similarities that are held at a time.
METRIC_NAMES = ("ndcg", "mrr", "spearman", "neighbour")
"""What figures are called, of whatever data."""


class EncodedTexts(Protocol):
    """P encoded texts, by number."""

    def cross(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """(N, M) similarity of each of N texts with each of M."""

    def pairs(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """(N,) similarity of N texts with N texts, one by one."""


@dataclass(frozen=True, eq=False)
class EncodedVectors:
    """Texts with one vector each: `rows` (P, K), compared by their products."""

    vectors: np.ndarray

    def cross(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """See `Compared`."""
        found: np.ndarray = self.vectors[one] @ self.vectors[other].T
        return found

    def pairs(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """See `Compared`."""
        found: np.ndarray = (self.vectors[one] * self.vectors[other]).sum(1)
        return found


def compute_metrics(texts: EncodedTexts, numbers: np.ndarray, data: EmbeddingExamples) -> dict[str, float]:
    """Of examples (E, C) as numbers of texts: neighbours for classes, rank correlation for scored pairs, retrieval for
    others; nothing for raw sentences, and where a figure is not defined."""
    if data.target_kind == "label":
        assert data.target is not None
        return nearest_neighbour_accuracy(texts, numbers, data.target)
    if data.target_kind == "score":
        assert data.target is not None
        return rank_correlation(texts, numbers, data.target)
    return {} if data.raw else retrieval_metrics(texts, numbers)


def has_metrics(data: EmbeddingExamples) -> bool:
    """Whether such data can have figures at all: not raw sentences, nor pairs of one score, nor a single text."""
    if data.target_kind == "score":
        return data.target is not None and len(np.unique(data.target)) > 1
    return not data.raw and len(data) > (data.target_kind == "label")


def retrieval_metrics(texts: EncodedTexts, numbers: np.ndarray) -> dict[str, float]:
    """Examples (E, C) as numbers of texts: is each anchor's partner found?

    Every text of column 1 and after is searched; an anchor that occurs in several examples has several right answers.
    `ndcg` and `mrr` look at the first ten. The anchor itself, where it is among the texts, is passed over.
    """
    anchors, where = np.unique(numbers[:, 0], return_inverse=True)
    documents = np.unique(numbers[:, 1:])
    partner = np.searchsorted(documents, numbers[:, 1])
    depth = min(DEPTH, len(documents))
    discount = 1 / np.log2(np.arange(2, depth + 2))
    gains, firsts = [], []
    for some in _some(len(anchors), len(documents)):
        right = np.zeros((len(some), len(documents)), bool)
        mine = (where >= some[0]) & (where <= some[-1])
        right[where[mine] - some[0], partner[mine]] = True
        scores = texts.cross(anchors[some], documents)
        scores[anchors[some, None] == documents[None, :]] = -np.inf
        best = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
        found = np.take_along_axis(right, best, axis=1)
        ideal = np.concatenate([[0.0], discount.cumsum()])[np.minimum(right.sum(1), depth)]
        gains.append((found @ discount) / ideal)
        firsts.append(np.where(found.any(1), 1 / (found.argmax(1) + 1), 0.0))
    return {"ndcg": float(np.concatenate(gains).mean()), "mrr": float(np.concatenate(firsts).mean())}


def rank_correlation(texts: EncodedTexts, numbers: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Rank correlation of the pairs' similarities with their scores (E,); nothing where it is not defined."""
    similarity = texts.pairs(numbers[:, 0], numbers[:, 1])
    if len(np.unique(target)) < 2 or len(np.unique(similarity)) < 2:
        return {}
    return {"spearman": float(np.corrcoef(_ranks(target), _ranks(similarity))[0, 1])}


def nearest_neighbour_accuracy(texts: EncodedTexts, numbers: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """How often a text's nearest other text is of its class; nothing for fewer than two texts."""
    if len(numbers) < 2:
        return {}
    same = []
    for some in _some(len(numbers), len(numbers)):
        similarity = texts.cross(numbers[some, 0], numbers[:, 0])
        similarity[np.arange(len(some)), some] = -np.inf
        same.append(target[similarity.argmax(1)] == target[some])
    return {"neighbour": float(np.concatenate(same).mean())}


def _some(rows: int, columns: int) -> Iterator[np.ndarray]:
    """The numbers of `rows`, in order, in pieces whose similarities with so many columns can be held."""
    at_once = max(SIMILARITIES_AT_ONCE // max(columns, 1), 1)
    for first in range(0, rows, at_once):
        yield np.arange(first, min(first + at_once, rows))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks of values, equal ones sharing the mean of theirs."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(counts) - (counts - 1) / 2)[where]
    return ranks
