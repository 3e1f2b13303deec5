"""Embeddings of texts: dense, sparse and multi-vector, and how each kind is compared.

Shapes: N texts, Q queries, D documents, K dimension of a vector, n tokens of a text.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


class TextEmbeddings(abc.ABC):
    """Embeddings of N texts, in the order of the texts. `tokens` (N,) were read of each text, special tokens included;
    `dropped` (N,) were left out by the truncation."""

    tokens: np.ndarray
    dropped: np.ndarray

    @abc.abstractmethod
    def __len__(self) -> int:
        """N."""

    @abc.abstractmethod
    def at(self, index: int) -> Any:
        """The embedding of one text."""

    @classmethod
    @abc.abstractmethod
    def from_values(cls, values: Sequence[Any]) -> TextEmbeddings:
        """The embeddings of several texts from what `at` gives for each; `tokens` and `dropped` are zero."""

    @abc.abstractmethod
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that hold the embeddings, by name."""

    @abc.abstractmethod
    def similarity(self, documents: Any) -> np.ndarray:
        """Scores (Q, D) of these as queries with embeddings of documents of the same kind."""


@dataclass(frozen=True)
class DenseEmbeddings(TextEmbeddings):
    """`vectors` (N, K) float32, compared by inner product."""

    vectors: np.ndarray
    tokens: np.ndarray
    dropped: np.ndarray

    def __len__(self) -> int:
        return len(self.vectors)

    def at(self, index: int) -> np.ndarray:
        """The vector (K,) of one text."""
        vector: np.ndarray = self.vectors[index]
        return vector

    @classmethod
    def from_values(cls, values: Sequence[np.ndarray]) -> DenseEmbeddings:
        """See `TextEmbeddings`."""
        return cls(np.stack(values), *_zeros(len(values)))

    def arrays(self) -> dict[str, np.ndarray]:
        """`vectors`."""
        return {"vectors": self.vectors}

    def similarity(self, documents: DenseEmbeddings) -> np.ndarray:
        """Inner products (Q, D)."""
        scores: np.ndarray = self.vectors @ documents.vectors.T
        return scores


@dataclass(frozen=True, eq=False)
class SparseEmbeddings(TextEmbeddings):
    """The terms of text i are `term_ids[ends[i-1]:ends[i]]`, int32 and rising, with their `weights`; compared by inner
    product."""

    ends: np.ndarray
    term_ids: np.ndarray
    weights: np.ndarray
    tokens: np.ndarray
    dropped: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def at(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Term ids and weights of one text."""
        part = _slice(self.ends, index)
        return self.term_ids[part], self.weights[part]

    @classmethod
    def from_values(cls, values: Sequence[tuple[np.ndarray, np.ndarray]]) -> SparseEmbeddings:
        """See `TextEmbeddings`."""
        ends = np.cumsum([len(term_ids) for term_ids, _ in values], dtype=np.int64)
        term_ids = np.concatenate([np.zeros(0, np.int32), *(some for some, _ in values)])
        weights = np.concatenate([np.zeros(0, np.float32), *(some for _, some in values)])
        return cls(ends, term_ids, weights, *_zeros(len(values)))

    def arrays(self) -> dict[str, np.ndarray]:
        """`ends`, `term_ids` and `weights`."""
        return {"ends": self.ends, "term_ids": self.term_ids, "weights": self.weights}

    def similarity(self, documents: SparseEmbeddings) -> np.ndarray:
        """Inner products (Q, D) float64."""
        owner = np.repeat(np.arange(len(documents)), np.diff(documents.ends, prepend=0))
        scores = np.zeros((len(self), len(documents)), np.float64)
        size = 1 + max((int(ids.max()) for ids in (self.term_ids, documents.term_ids) if len(ids)), default=0)
        for index in range(len(self)):
            term_ids, weights = self.at(index)
            table = np.zeros(size, np.float32)
            table[term_ids] = weights
            products = table[documents.term_ids] * documents.weights
            scores[index] = np.bincount(owner, products, len(documents))
        return scores


@dataclass(frozen=True, eq=False)
class MultiVectorEmbeddings(TextEmbeddings):
    """The vectors of text i are `vectors[ends[i-1]:ends[i]]` (n, K) float32 of unit length; compared by MaxSim."""

    vectors: np.ndarray
    ends: np.ndarray
    tokens: np.ndarray
    dropped: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def at(self, index: int) -> np.ndarray:
        """The token vectors (n, K) of one text."""
        return self.vectors[_slice(self.ends, index)]

    @classmethod
    def from_values(cls, values: Sequence[np.ndarray]) -> MultiVectorEmbeddings:
        """See `TextEmbeddings`."""
        ends = np.cumsum([len(vectors) for vectors in values], dtype=np.int64)
        return cls(np.concatenate(values), ends, *_zeros(len(values)))

    def arrays(self) -> dict[str, np.ndarray]:
        """`vectors` and `ends`."""
        return {"vectors": self.vectors, "ends": self.ends}

    def similarity(self, documents: MultiVectorEmbeddings) -> np.ndarray:
        """MaxSim (Q, D) float32: the sum over a query's tokens of the highest cosine with a token of the document."""
        scores = np.zeros((len(self), len(documents)), np.float32)
        starts = np.concatenate([[0], documents.ends[:-1]])
        for index in range(len(self)):
            cosines = self.at(index) @ documents.vectors.T
            scores[index] = np.maximum.reduceat(cosines, starts, axis=1).sum(axis=0)
        return scores


def _slice(ends: np.ndarray, index: int) -> slice:
    return slice(int(ends[index - 1]) if index else 0, int(ends[index]))


def _zeros(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(count, np.int64), np.zeros(count, np.int64)
