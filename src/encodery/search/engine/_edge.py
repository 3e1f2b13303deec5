"""The open store of Qdrant Edge, and what its errors mean.

Shapes: H width of a vector, n tokens, K width of a token's vector.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from encodery.base.errors import ArtifactError, DiskFull, EncoderyError, InputError
from encodery.search.engine._stored import check_query, payload_of, point_of, terms_of
from encodery.search.engine._words import Analyser
from encodery.search.filters import Condition, Value, alternatives
from encodery.search.store import DOCUMENT, METADATA, NUMBER, TEXT, Fields, Hit, Point, Store, Terms

DENSE, TERMS, TOKENS = "dense", "terms", "tokens"
DELETE_AT_ONCE = 256
DEEPER = 4
SEARCH_EFFORT = 128  # Candidates an HNSW search keeps; with a graph only.


class EdgeStore(Store):
    """`shard`, `scoring` (BM25's parameters): the engine's own objects; `analyse`: text to words."""

    def __init__(
        self, shard: Any, folder: Path, scoring: Any, analyse: Analyser, graph_from: int, fields: Fields
    ) -> None:
        import qdrant_edge

        self._edge: Any = qdrant_edge
        self._shard = shard
        self._folder = folder
        self._fields = fields
        self._scoring = scoring
        self._analyse = analyse
        self._graph_from = graph_from
        self._closed = False
        self._size: int | None = None  # of the whole store, until it changes

    def upsert(self, points: Sequence[Point]) -> None:
        if not points:
            return
        rows = [self._edge.Point(point.id, self._vectors(point), payload_of(point)) for point in points]
        self._change(self._edge.UpdateOperation.upsert_points(rows))

    def _vectors(self, point: Point) -> dict[str, Any]:
        self._fields.check(point)
        found: dict[str, Any] = {}
        if self._fields.width is not None and point.vector is not None:
            found[DENSE] = point.vector.tolist()
        if self._fields.terms and point.terms is not None:
            found[TERMS] = self._edge.SparseVector(point.terms.words.tolist(), point.terms.weights.tolist())
        if self._fields.tokens is not None and point.tokens is not None:
            found[TOKENS] = point.tokens.tolist()
        return found

    def delete_documents(self, documents: Iterable[str]) -> None:
        ids = list(documents)
        for start in range(0, len(ids), DELETE_AT_ONCE):
            some = self._edge.MatchAny(ids[start : start + DELETE_AT_ONCE])
            named_ones = self._edge.Filter(must=[self._edge.FieldCondition(DOCUMENT, match=some)])
            self._change(self._edge.UpdateOperation.delete_points_by_filter(named_ones))

    def delete_where(self, conditions: Sequence[Condition]) -> int:
        if not conditions:
            raise InputError("Deleting by filter needs at least one condition.")
        number = self.count(conditions)
        self._change(self._edge.UpdateOperation.delete_points_by_filter(self._filter(conditions)))
        return number

    def by_vector(
        self,
        vector: np.ndarray,
        limit: int,
        conditions: Sequence[Condition] = (),
        among: Sequence[str] | None = None,
    ) -> list[Hit]:
        check_query(self._folder, self._fields.width, vector.shape[-1], "vectors")
        query = self._edge.Query.Nearest(vector.tolist(), using=DENSE)
        if self._size is None:
            self._size = self.count()
        few = self._size < self._graph_from
        params = self._edge.SearchParams(exact=few, hnsw_ef=None if few else max(SEARCH_EFFORT, limit))
        return self._query(query, limit, conditions, among, params)

    def by_terms(
        self, terms: Terms, limit: int, conditions: Sequence[Condition] = (), among: Sequence[str] | None = None
    ) -> list[Hit]:
        check_query(self._folder, 0 if self._fields.terms else None, 0, "learned sparse vectors")
        if not len(terms.words):
            return []
        asked = self._edge.SparseVector(terms.words.tolist(), terms.weights.tolist())
        return self._query(self._edge.Query.Nearest(asked, using=TERMS), limit, conditions, among, None)

    def by_tokens(
        self, tokens: np.ndarray, limit: int, conditions: Sequence[Condition] = (), among: Sequence[str] | None = None
    ) -> list[Hit]:
        check_query(self._folder, self._fields.tokens, tokens.shape[-1], "vectors of tokens")
        params = self._edge.SearchParams(exact=True)
        query = self._edge.Query.Nearest(tokens.tolist(), using=TOKENS)
        return self._query(query, limit, conditions, among, params)

    def by_words(
        self, text: str, limit: int, conditions: Sequence[Condition] = (), among: Sequence[str] | None = None
    ) -> list[Hit]:
        """See `Store`. The engine counts each word of a query once; BM25 as often as it stands there, which decides
        about long questions. So the words that stand there twice are asked again, and those that stand there thrice."""
        repeated = self._analyse.repeated(text)
        if not repeated:
            return self._by_distinct(text, limit, conditions, among)
        most = sum(hits[0].score for words in repeated if (hits := self._by_distinct(words, 1, conditions, among)))
        depth = limit
        while True:
            scores = {hit.id: hit.score for hit in self._by_distinct(text, depth, conditions, among)}
            last = min(scores.values(), default=0.0)
            ids = list(scores)
            for words in repeated:
                for hit in self._by_distinct(words, len(ids), (), ids):
                    scores[hit.id] += hit.score
            best = sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))[:limit]
            # No passage beyond those looked at can score more than the last of them and all its repeated words.
            if len(scores) < depth or best[-1][1] >= min(last + most, last * (len(repeated) + 1)):
                return [Hit(name, score) for name, score in best]
            depth *= DEEPER

    def _by_distinct(
        self, text: str, limit: int, conditions: Sequence[Condition], among: Sequence[str] | None
    ) -> list[Hit]:
        return self._query(self._edge.TextQuery(TEXT, text, scoring=self._scoring), limit, conditions, among, None)

    def _query(
        self, query: Any, limit: int, conditions: Sequence[Condition], among: Sequence[str] | None, params: Any
    ) -> list[Hit]:
        if among is not None and not among:
            return []
        request = self._edge.QueryRequest(
            limit=limit, query=query, filter=self._filter(conditions, among), with_payload=False, params=params
        )
        with named(self._folder):
            found = self._shard.query(request)
        return [Hit(str(point.id), float(point.score)) for point in found]

    def fetch(self, ids: Sequence[str]) -> dict[str, Point]:
        with named(self._folder):
            records = self._shard.retrieve(list(ids), True, False)
        return {str(record.id): _point(record) for record in records}

    def all(self, batch: int = 1024, vectors: bool = False) -> Iterator[list[Point]]:
        after = None
        while True:
            request = self._edge.ScrollRequest(offset=after, limit=batch, with_payload=True, with_vector=vectors)
            with named(self._folder):
                records, after = self._shard.scroll(request)
            if records:
                yield [_point(record) for record in records]
            if after is None:
                return

    def documents(self) -> int:
        first = self._edge.FieldCondition(NUMBER, match=self._edge.MatchValue(0))
        with named(self._folder):
            return int(self._shard.count(self._edge.CountRequest(filter=self._edge.Filter(must=[first]))))

    def count(self, conditions: Sequence[Condition] = ()) -> int:
        with named(self._folder):
            return int(self._shard.count(self._edge.CountRequest(filter=self._filter(conditions))))

    def matches(self, query: str, text: str) -> list[tuple[int, int]]:
        return self._analyse.matches(query, text)

    def settle(self) -> None:
        with named(self._folder):
            self._shard.optimize()
            self._shard.flush()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._shard.close()

    def _change(self, operation: Any) -> None:
        self._size = None
        with named(self._folder):
            self._shard.update(operation)

    def _filter(self, conditions: Sequence[Condition], among: Sequence[str] | None = None) -> Any:
        must = [self._condition(c) for c in conditions if c.operator != "!="]
        if among is not None:
            must.append(self._edge.HasIdCondition(set(among)))
        must_not = [self._condition(c) for c in conditions if c.operator == "!="]
        return self._edge.Filter(must=must or None, must_not=must_not or None) if must or must_not else None

    def _condition(self, condition: Condition) -> Any:
        """The engine's form of one condition; of `!=` its positive form, to be put under must_not."""
        key = condition.field if condition.field in (DOCUMENT, NUMBER) else f'{METADATA}."{condition.field}"'
        bounds = {">=": "gte", ">": "gt", "<=": "lte", "<": "lt"}
        if condition.operator in bounds:
            limits = self._edge.RangeFloat(**{bounds[condition.operator]: condition.values[0]})
            return self._edge.FieldCondition(key, range=limits)
        if condition.operator == "~":
            matches = [self._edge.MatchSubstring(str(value)) for value in condition.values]
            tests = [self._edge.FieldCondition(key, match=match) for match in matches]
        else:
            tests = [self._equals(key, value) for written in condition.values for value in alternatives(written)]
        return self._edge.Filter(should=tests)

    def _equals(self, key: str, value: Value) -> Any:
        if isinstance(value, float):
            return self._edge.FieldCondition(key, range=self._edge.RangeFloat(gte=value, lte=value))
        return self._edge.FieldCondition(key, match=self._edge.MatchValue(value))


def _point(record: Any) -> Point:
    stored = record.vector or {}
    vector = None if DENSE not in stored else np.asarray(stored[DENSE], np.float32)
    tokens = None if TOKENS not in stored else np.asarray(stored[TOKENS], np.float32)
    sparse = stored.get(TERMS)
    return point_of(record.payload, vector, None if sparse is None else terms_of(sparse), tokens)


@contextlib.contextmanager
def named(folder: Path) -> Iterator[None]:
    """The engine raises bare exceptions: those a user can meet become ours, naming the folder."""
    try:
        yield
    except EncoderyError:
        raise
    except Exception as error:
        said = str(error)
        if "WouldBlock" in said:
            raise ArtifactError(f"{folder}: is in use by another process; close it first.") from error
        if "No space left" in said or "OutOfDisk" in said or "disk" in said.lower():
            raise DiskFull(f"{folder}: no space left on the device. What was stored before is intact.") from error
        raise ArtifactError(f"{folder}: the search engine failed: {said}") from error
