"""What a search engine stores and returns: points (the text, embeddings and payload of a passage) and hits.

Shapes: H dimension of a dense vector, n tokens of a passage, K dimension of a token's vector."""

from __future__ import annotations

import abc
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from encodery.base.errors import InputError
from encodery.search.filters import Condition

DOCUMENT = "document"
NUMBER = "number"
TEXT = "text"
WORDS = "words"
"""Of a language without spaces, a copy of the text with its characters set apart."""
METADATA = "metadata"
Precision = Literal["fp32", "fp16", "int8", "binary"]
"""How vectors are stored. int8: randomly rotated, then one byte per dimension; the original vectors are not kept.
binary: randomly rotated, then one bit per dimension, which finds the candidates; their scores come from 16-bit vectors
that are also stored."""


@dataclass(frozen=True, slots=True, eq=False)
class SparseVector:
    """A learned sparse vector: `term_ids` (n,) int64, rising and distinct, and their `weights` (n,) float32."""

    term_ids: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True, slots=True)
class Point:
    """One passage.

    Attributes:
        document, number: the id of its document, and which passage of the document it is; numbers start at 0 without
            gaps.
        text: is searched by BM25.
        dense: (H,) float32; None in an index for BM25 only.
        sparse: the learned sparse vector.
        multi_vector: (n, K) float32, one vector per token.
        payload: anything JSON can hold; conditions apply to its `metadata`.
    """

    document: str
    number: int
    text: str
    dense: np.ndarray | None
    payload: dict[str, Any] = field(default_factory=dict)
    sparse: SparseVector | None = None
    multi_vector: np.ndarray | None = None

    @property
    def id(self) -> str:
        """The id: the same for the same passage of the same document, so that storing it again replaces it."""
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self.number}\0{self.document}"))


@dataclass(frozen=True, kw_only=True)
class Fields:
    """What a store keeps of each passage besides its text: a dense vector of `dense_dim` H, a learned `sparse` vector,
    and token vectors of `multi_vector_dim` K; None and False mean not stored. `precision`: of the vectors. Token
    vectors are never searched by bits, so binary stores them with 16 bits."""

    dense_dim: int | None = None
    sparse: bool = False
    multi_vector_dim: int | None = None
    precision: Precision = "fp32"

    def check(self, point: Point) -> None:
        """Raise `InputError` that names the document if its passage lacks a field, or has one of another shape."""
        if self.dense_dim is not None:
            self._check(point, "vector", point.dense, (self.dense_dim,))
        if self.multi_vector_dim is not None:
            count = 1 if point.multi_vector is None else max(len(point.multi_vector), 1)
            self._check(point, "matrix of token vectors", point.multi_vector, (count, self.multi_vector_dim))
        if self.sparse:
            weights = None if point.sparse is None else point.sparse.weights
            self._check(point, "sparse vector", weights, (0 if point.sparse is None else len(point.sparse.term_ids),))

    def _check(self, point: Point, what: str, value: np.ndarray | None, shape: tuple[int, ...]) -> None:
        if value is None or value.shape != shape:
            held = "none" if value is None else str(value.shape)
            raise InputError(f"Document '{point.document}': a {what} of shape {shape} is needed, not {held}.")
        if not np.isfinite(value).all():
            raise InputError(f"Document '{point.document}': its {what} is not finite.")


@dataclass(frozen=True, slots=True)
class Hit:
    """The id of a stored point and its score."""

    id: str
    score: float


class Store(abc.ABC):
    """An open store. One process at a time may have it open; use it as a context, or close it.

    Every change is durable when the call returns. All of several conditions must hold. If `among` is given, a search
    returns only points with one of these ids."""

    @abc.abstractmethod
    def upsert(self, points: Sequence[Point]) -> None:
        """Store points; a point with a known id replaces the old one."""

    @abc.abstractmethod
    def delete_documents(self, documents: Iterable[str]) -> None:
        """Delete every passage of these documents; unknown ids are ignored."""

    @abc.abstractmethod
    def delete_where(self, conditions: Sequence[Condition]) -> int:
        """Delete the passages for which all conditions hold, and return their number."""

    @abc.abstractmethod
    def search_dense(
        self, vector: np.ndarray, limit: int, conditions: Sequence[Condition] = (), among: Sequence[str] | None = None
    ) -> list[Hit]:
        """Return the points with the largest inner product with `vector` (H,)."""

    @abc.abstractmethod
    def search_sparse(
        self, terms: SparseVector, limit: int, conditions: Sequence[Condition] = (), among: Sequence[str] | None = None
    ) -> list[Hit]:
        """Return the points with the largest inner product with a learned sparse vector; points without a common term
        are never returned."""

    @abc.abstractmethod
    def search_multi_vector(
        self, tokens: np.ndarray, limit: int, conditions: Sequence[Condition] = (), among: Sequence[str] | None = None
    ) -> list[Hit]:
        """Return the points with the largest MaxSim: the sum over the query's token vectors (n, K) of the largest inner
        product with a token vector of the passage."""

    @abc.abstractmethod
    def search_bm25(
        self, text: str, limit: int, conditions: Sequence[Condition] = (), among: Sequence[str] | None = None
    ) -> list[Hit]:
        """Return the points with the largest BM25 score; points without any term of the query are never returned."""

    @abc.abstractmethod
    def fetch(self, ids: Sequence[str]) -> dict[str, Point]:
        """Return the points of these ids, without embeddings; unknown ids are missing."""

    @abc.abstractmethod
    def scan(self, batch: int = 1024, vectors: bool = False) -> Iterator[list[Point]]:
        """Yield every point in batches, in an order that does not depend on the order of insertion."""

    @abc.abstractmethod
    def documents(self) -> int:
        """Return the number of documents."""

    @abc.abstractmethod
    def count(self, conditions: Sequence[Condition] = ()) -> int:
        """Return the number of passages for which all conditions hold."""

    @abc.abstractmethod
    def matches(self, query: str, text: str) -> list[tuple[int, int]]:
        """Return the characters [begin, end) of each word of `text` that the engine treats as equal to a word of the
        query."""

    @abc.abstractmethod
    def compact(self) -> None:
        """After many changes: merge, index and drop what was deleted, so that queries are fast and exact."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release the files."""

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
