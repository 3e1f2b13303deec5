"""What an engine keeps and gives back: points (a passage's words, vectors and payload) and hits.

Shapes: H width of a vector, n tokens of a passage, K width of a token's vector.
"""

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
METADATA = "metadata"
Precision = Literal["fp32", "fp16", "int8", "binary"]
"""How vectors are stored. int8: turned at random, then a byte a number, and nothing else of them is kept. binary: so
turned, a bit a number, by which candidates are found, whose scores are then those of 16-bit vectors kept beside."""


@dataclass(frozen=True, slots=True, eq=False)
class SparseVector:
    """A learned sparse vector: `words` (n,) int64, rising, none twice, and their `weights` (n,) float32."""

    term_ids: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True, slots=True)
class Point:
    """One passage. `text`: what is searched by words; `vector` (H,) float32, None in an index of words only; `terms`:
    its learned sparse vector; `tokens` (n, K) float32: a vector for each of its tokens.

    `document`: the id of the document it belongs to, of which it is passage `number`, from 0 without gaps;
    `payload`: anything JSON can hold, its `metadata` is what conditions look at.
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
        """The same passage of the same document always has the same id, so that storing it again replaces it."""
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self.number}\0{self.document}"))


@dataclass(frozen=True, kw_only=True)
class Fields:
    """What a store keeps of each passage beside its words: a vector of `width` H, learned sparse `terms`, a vector of
    width K = `tokens` for each token. None and False: not kept. `precision` of vectors; those of tokens are found by
    no bits, so that binary keeps them with 16."""

    dense_dim: int | None = None
    sparse: bool = False
    multi_vector_dim: int | None = None
    precision: Precision = "fp32"

    def check(self, point: Point) -> None:
        """Raises `InputError` naming the document whose passage lacks a field, or has one of another shape."""
        if self.dense_dim is not None:
            self._check(point, "vector", point.dense, (self.dense_dim,))
        if self.multi_vector_dim is not None:
            count = 1 if point.multi_vector is None else max(len(point.multi_vector), 1)
            self._check(point, "vector a token", point.multi_vector, (count, self.multi_vector_dim))
        if self.sparse:
            found = None if point.sparse is None else point.sparse.weights
            self._check(point, "sparse vector", found, (0 if point.sparse is None else len(point.sparse.term_ids),))

    def _check(self, point: Point, what: str, found: np.ndarray | None, shape: tuple[int, ...]) -> None:
        if found is None or found.shape != shape:
            held = "none" if found is None else str(found.shape)
            raise InputError(f"Document '{point.document}': a {what} of shape {shape} is needed, not {held}.")
        if not np.isfinite(found).all():
            raise InputError(f"Document '{point.document}': its {what} is not finite.")


@dataclass(frozen=True, slots=True)
class Hit:
    """The id of a stored point and the score by which it was found."""

    id: str
    score: float


class Store(abc.ABC):
    """An open engine. One process at a time may hold it; use it as a context, or close it.

    Every change is durable when the call returns. Conditions are joined by "and".
    """

    @abc.abstractmethod
    def upsert(self, points: Sequence[Point]) -> None:
        """Store points; one with a known id replaces the old one."""

    @abc.abstractmethod
    def delete_documents(self, documents: Iterable[str]) -> None:
        """Remove every passage of these documents; unknown ids are passed over."""

    @abc.abstractmethod
    def delete_where(self, conditions: Sequence[Condition]) -> int:
        """Remove the passages for which all conditions hold; the number removed."""

    @abc.abstractmethod
    def search_dense(
        self, vector: np.ndarray, limit: int, conditions: Sequence[Condition] = (), among: Sequence[str] | None = None
    ) -> list[Hit]:
        """The points of largest inner product with `vector` (H,); only those with an id in `among`, if given."""

    @abc.abstractmethod
    def search_sparse(
        self, terms: SparseVector, limit: int, conditions: Sequence[Condition] = (), among: Sequence[str] | None = None
    ) -> list[Hit]:
        """The points of largest inner product with a learned sparse vector; points that share no word with it are
        never among them."""

    @abc.abstractmethod
    def search_multi_vector(
        self, tokens: np.ndarray, limit: int, conditions: Sequence[Condition] = (), among: Sequence[str] | None = None
    ) -> list[Hit]:
        """The points of largest MaxSim: Σ over the query's vectors (n, K) of the largest inner product with one of the
        passage's."""

    @abc.abstractmethod
    def search_bm25(
        self, text: str, limit: int, conditions: Sequence[Condition] = (), among: Sequence[str] | None = None
    ) -> list[Hit]:
        """The points of largest BM25 score; points without any of the words are never among them."""

    @abc.abstractmethod
    def fetch(self, ids: Sequence[str]) -> dict[str, Point]:
        """The points of these ids, without vectors; unknown ids are missing."""

    @abc.abstractmethod
    def scan(self, batch: int = 1024, vectors: bool = False) -> Iterator[list[Point]]:
        """Every point, in an order that does not depend on how they came in."""

    @abc.abstractmethod
    def documents(self) -> int:
        """How many documents are stored."""

    @abc.abstractmethod
    def count(self, conditions: Sequence[Condition] = ()) -> int:
        """How many passages are stored for which all conditions hold."""

    @abc.abstractmethod
    def matches(self, query: str, text: str) -> list[tuple[int, int]]:
        """The characters [begin, end) of each word of `text` that the engine holds equal to a word of the query."""

    @abc.abstractmethod
    def compact(self) -> None:
        """After many changes: merge, index and drop what was deleted, so that queries are fast and exact."""

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of the files."""

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
