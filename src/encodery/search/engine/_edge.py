"""The open store of Qdrant Edge, and what its errors mean.

Shapes: H width of a vector.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from encodery.base.errors import ArtifactError, DiskFull, EncoderyError, InputError
from encodery.search.filters import Condition, Value, alternatives
from encodery.search.store import DOCUMENT, METADATA, NUMBER, TEXT, Hit, Point, Store

DENSE = "dense"
DELETE_AT_ONCE = 256
WORD = re.compile(r"\w+")
DEEPER = 4
SEARCH_EFFORT = 128  # Candidates an HNSW search keeps; with a graph only.


class EdgeStore(Store):
    """`shard`, `scoring` (BM25's parameters) and `analyse` (text to words) are the engine's own objects; `width` None
    holds words only."""

    def __init__(
        self, shard: Any, folder: Path, scoring: Any, analyse: Any, graph_from: int, width: int | None
    ) -> None:
        import qdrant_edge

        self._edge: Any = qdrant_edge
        self._shard = shard
        self._folder = folder
        self._width = width
        self._scoring = scoring
        self._analyse = analyse
        self._graph_from = graph_from
        self._closed = False
        self._size: int | None = None  # of the whole store, until it changes

    def upsert(self, points: Sequence[Point]) -> None:
        if not points:
            return
        rows = [self._edge.Point(point.id, self._vector(point), self._payload(point)) for point in points]
        self._change(self._edge.UpdateOperation.upsert_points(rows))

    def _vector(self, point: Point) -> dict[str, list[float]]:
        if self._width is None:
            return {}
        if point.vector is None or point.vector.shape != (self._width,):
            found = "none" if point.vector is None else str(point.vector.shape)
            raise InputError(f"Document '{point.document}': a vector of shape ({self._width},) is needed, not {found}.")
        if not np.isfinite(point.vector).all():
            raise InputError(f"Document '{point.document}': its vector is not finite.")
        return {DENSE: point.vector.tolist()}

    def _payload(self, point: Point) -> dict[str, Any]:
        metadata = {key: _storable(value) for key, value in point.payload.get(METADATA, {}).items()}
        own = {DOCUMENT: point.document, NUMBER: point.number, TEXT: point.text, METADATA: metadata}
        return {**point.payload, **own}

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
        if self._width is None:
            raise InputError(f"{self._folder}: was made without vectors; search it by words.")
        if vector.shape != (self._width,):
            raise InputError(f"{self._folder}: holds vectors of width {self._width}, the query's is {vector.shape}.")
        query = self._edge.Query.Nearest(vector.tolist(), using=DENSE)
        if self._size is None:
            self._size = self.count()
        few = self._size < self._graph_from
        params = self._edge.SearchParams(exact=few, hnsw_ef=None if few else max(SEARCH_EFFORT, limit))
        return self._query(query, limit, conditions, among, params)

    def by_words(
        self, text: str, limit: int, conditions: Sequence[Condition] = (), among: Sequence[str] | None = None
    ) -> list[Hit]:
        """See `Store`. The engine counts each word of a query once; BM25 as often as it stands there, which decides
        about long questions. So the words that stand there twice are asked again, and those that stand there thrice."""
        repeated = self._repeated(text)
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

    def _repeated(self, text: str) -> list[str]:
        """The words of a query that stand in it at least twice, those at least thrice, and so on."""
        words: dict[tuple[int, ...], str] = {}
        counts: Counter[tuple[int, ...]] = Counter()
        for match in WORD.finditer(text):
            key = tuple(self._analyse.embed_query(match[0]).indices)
            if key:
                words.setdefault(key, match[0])
                counts[key] += 1
        most = max(counts.values(), default=0)
        return [" ".join(words[key] for key in counts if counts[key] >= times) for times in range(2, most + 1)]

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
        wanted = set(self._analyse.embed_query(query).indices)
        found: dict[str, bool] = {}
        spans = []
        for match in WORD.finditer(text):
            word = match[0]
            if word not in found:
                found[word] = not wanted.isdisjoint(self._analyse.embed_query(word).indices)
            if found[word]:
                spans.append(match.span())
        return spans

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


def _storable(value: Any) -> Any:
    """The engine's Python binding compares truth values as numbers and refuses NaN: both are stored as text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _point(record: Any) -> Point:
    payload = dict(record.payload)
    document, number, text = payload.pop(DOCUMENT), payload.pop(NUMBER), payload.pop(TEXT)
    stored = (record.vector or {}).get(DENSE)
    vector = None if stored is None else np.asarray(stored, np.float32)
    return Point(document, number, text, vector, payload)


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
