"""The store of both Qdrant packages, which have the same objects under the same names and send them differently.

Shapes: H dimension of a dense vector, n tokens, K dimension of a token's vector."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from encodery.base.errors import InputError
from encodery.search.engine._analyser import Analyser
from encodery.search.engine._stored import check_query, point_of, terms_of
from encodery.search.filters import Condition, Value, alternatives
from encodery.search.store import DOCUMENT, METADATA, NUMBER, Fields, Hit, Point, Precision, SparseVector, Store

DENSE, TERMS, TOKENS = "dense", "terms", "tokens"
DELETE_AT_ONCE = 256
SEARCH_EFFORT = 128  # Candidates an HNSW search keeps; with a graph only.
BY_BITS = 4  # Candidates by bits for each passage asked for, at least SEARCH_EFFORT in all.
DATATYPES: dict[Precision, str] = {"fp32": "float32", "fp16": "float16", "int8": "turbo8", "binary": "float16"}
"""Precision -> the name of the stored type in both packages. `turbo8` is TurboQuant: vectors are randomly rotated, so
that no dimension dominates, then rounded; the ten nearest are closer to those of float32 than by rounding alone."""
BYTES: dict[Precision, int] = {"fp32": 4, "fp16": 2, "int8": 1, "binary": 2}
BOUNDS = {">=": "gte", ">": "gt", "<=": "lte", "<": "lt"}
Among = tuple[Sequence[Condition], Sequence[str] | None]
"""What all must fulfil, and the ids they must be of, if given."""


def graph_threshold_kb(fields: Fields, graph_from: int) -> int:
    """Return the size in kB from which both packages build a graph, which they count over vectors as they are stored,
    for a graph from `graph_from` vectors."""
    return max(graph_from * (fields.dense_dim or 1) * BYTES[fields.precision] // 1024, 1)


class PointStore(Store):
    """A store over `kit`, the module of a package's objects. `analyse`: text to terms; `graph_from`: number of vectors
    from which there is a graph."""

    def __init__(self, kit: Any, folder: Path, analyse: Analyser, graph_from: int) -> None:
        self._kit = kit
        self._folder = folder
        self._analyse = analyse
        self._graph_from = graph_from
        self._closed = False
        self._size: int | None = None  # of the whole store, until it changes here

    @property
    @abc.abstractmethod
    def _fields(self) -> Fields:
        """What is stored of each passage."""

    @abc.abstractmethod
    def _nearest(self, query: Any, using: str, limit: int, chosen: Any, params: Any) -> list[Hit]:
        """The points that pass a filter, or None, and are nearest to `query` in one field. `params`: of the search,
        None for the engine's defaults."""

    @abc.abstractmethod
    def _delete(self, chosen: Any) -> None:
        """Delete the points that pass a filter."""

    @abc.abstractmethod
    def _count(self, chosen: Any) -> int:
        """The number of points that pass a filter, or None."""

    @abc.abstractmethod
    def _with_ids(self, ids: Sequence[str]) -> Any:
        """The condition that a point has one of these ids."""

    @abc.abstractmethod
    def _range(self, **bounds: Any) -> Any:
        """The condition that a number lies between bounds."""

    def delete_documents(self, documents: Iterable[str]) -> None:
        ids = list(documents)
        for start in range(0, len(ids), DELETE_AT_ONCE):
            some = self._kit.MatchAny(any=ids[start : start + DELETE_AT_ONCE])
            self._delete(self._kit.Filter(must=[self._kit.FieldCondition(key=DOCUMENT, match=some)]))

    def delete_where(self, conditions: Sequence[Condition]) -> int:
        if not conditions:
            raise InputError("Deleting by filter needs at least one condition.")
        number = self.count(conditions)
        self._delete(self._filter(conditions))
        return number

    def search_dense(
        self, vector: np.ndarray, limit: int, conditions: Sequence[Condition] = (), among: Sequence[str] | None = None
    ) -> list[Hit]:
        check_query(self._folder, self._fields.dense_dim, vector.shape[-1], "vectors")
        if self._size is None:
            self._size = self.count()
        few = self._size < self._graph_from
        effort = None if few else max(SEARCH_EFFORT, limit)
        if self._fields.precision == "binary":
            more = max(float(BY_BITS), SEARCH_EFFORT / max(limit, 1))
            again = self._kit.QuantizationSearchParams(rescore=True, oversampling=more)
            params = self._kit.SearchParams(hnsw_ef=effort, quantization=again)  # `exact` would pass the bits over.
        else:
            params = self._kit.SearchParams(exact=few, hnsw_ef=effort)
        return self._near(vector.tolist(), DENSE, limit, (conditions, among), params)

    def search_sparse(
        self, terms: SparseVector, limit: int, conditions: Sequence[Condition] = (), among: Sequence[str] | None = None
    ) -> list[Hit]:
        check_query(self._folder, 0 if self._fields.sparse else None, 0, "learned sparse vectors")
        if not len(terms.term_ids):
            return []
        return self._near(self._sparse(terms), TERMS, limit, (conditions, among), None)

    def search_multi_vector(
        self, tokens: np.ndarray, limit: int, conditions: Sequence[Condition] = (), among: Sequence[str] | None = None
    ) -> list[Hit]:
        check_query(self._folder, self._fields.multi_vector_dim, tokens.shape[-1], "multi-vector embeddings")
        return self._near(tokens.tolist(), TOKENS, limit, (conditions, among), self._kit.SearchParams(exact=True))

    def _near(self, query: Any, using: str, limit: int, among: Among, params: Any) -> list[Hit]:
        """`_nearest` of those that conditions and ids leave."""
        if among[1] is not None and not among[1]:
            return []
        return self._nearest(query, using, limit, self._filter(*among), params)

    def documents(self) -> int:
        first = self._kit.FieldCondition(key=NUMBER, match=self._kit.MatchValue(value=0))
        return self._count(self._kit.Filter(must=[first]))

    def count(self, conditions: Sequence[Condition] = ()) -> int:
        return self._count(self._filter(conditions))

    def matches(self, query: str, text: str) -> list[tuple[int, int]]:
        return self._analyse.matches(query, text)

    def _vectors(self, point: Point) -> dict[str, Any]:
        """The fields of a point, as the package takes them."""
        fields: dict[str, Any] = {}
        if self._fields.dense_dim is not None and point.dense is not None:
            fields[DENSE] = point.dense.tolist()
        if self._fields.sparse and point.sparse is not None:
            fields[TERMS] = self._sparse(point.sparse)
        if self._fields.multi_vector_dim is not None and point.multi_vector is not None:
            fields[TOKENS] = point.multi_vector.tolist()
        return fields

    def _sparse(self, terms: SparseVector) -> Any:
        return self._kit.SparseVector(indices=terms.term_ids.tolist(), values=terms.weights.tolist())

    def _filter(self, conditions: Sequence[Condition], among: Sequence[str] | None = None) -> Any:
        must = [self._condition(c) for c in conditions if c.operator != "!="]
        if among is not None:
            must.append(self._with_ids(among))
        must_not = [self._condition(c) for c in conditions if c.operator == "!="]
        return self._kit.Filter(must=must or None, must_not=must_not or None) if must or must_not else None

    def _condition(self, condition: Condition) -> Any:
        """The package's form of one condition; for `!=` its positive form, which goes under must_not."""
        key = condition.field if condition.field in (DOCUMENT, NUMBER) else f'{METADATA}."{condition.field}"'
        if condition.operator in BOUNDS:
            limits = self._range(**{BOUNDS[condition.operator]: condition.values[0]})
            return self._kit.FieldCondition(key=key, range=limits)
        if condition.operator == "~":
            matches = [self._kit.MatchSubstring(substring=str(value)) for value in condition.values]
            tests = [self._kit.FieldCondition(key=key, match=match) for match in matches]
        else:
            tests = [self._equals(key, value) for written in condition.values for value in alternatives(written)]
        return self._kit.Filter(should=tests)

    def _equals(self, key: str, value: Value) -> Any:
        if isinstance(value, float):
            return self._kit.FieldCondition(key=key, range=self._range(gte=value, lte=value))
        return self._kit.FieldCondition(key=key, match=self._kit.MatchValue(value=value))


def point_from(payload: Mapping[str, Any], stored: Mapping[str, Any] | None) -> Point:
    """Return the point of a payload and of the fields that the package returns with it, None if they were not
    requested."""
    held = stored or {}
    vector = None if DENSE not in held else np.asarray(held[DENSE], np.float32)
    tokens = None if TOKENS not in held else np.asarray(held[TOKENS], np.float32)
    sparse = held.get(TERMS)
    return point_of(payload, vector, None if sparse is None else terms_of(sparse), tokens)
