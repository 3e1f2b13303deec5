"""The open store of Qdrant Edge, and the meaning of its errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from encodery.base.errors import ArtifactError, DiskFull, EncoderyError
from encodery.search.engine._analyser import Analyser, is_spaceless
from encodery.search.engine._points import PointStore, point_from
from encodery.search.engine._stored import payload_of
from encodery.search.filters import Condition
from encodery.search.store import TEXT, WORDS, Fields, Hit, Point

DEEPER = 4


class EdgeStore(PointStore):
    """A store over an engine's `shard`. `scoring`: BM25's parameters; `analyse`: text to terms."""

    def __init__(
        self, shard: Any, folder: Path, scoring: Any, analyse: Analyser, graph_from: int, fields: Fields
    ) -> None:
        import qdrant_edge

        super().__init__(qdrant_edge, folder, analyse, graph_from)
        self._shard = shard
        self._bm25_field = bm25_field(analyse.language)
        self._held = fields
        self._scoring = scoring

    @property
    def _fields(self) -> Fields:
        return self._held

    def upsert(self, points: Sequence[Point]) -> None:
        if not points:
            return
        for point in points:
            self._fields.check(point)
        rows = [self._kit.Point(point.id, self._vectors(point), self._payload(point)) for point in points]
        self._change(self._kit.UpdateOperation.upsert_points(rows))

    def _payload(self, point: Point) -> dict[str, Any]:
        payload = payload_of(point)
        if self._bm25_field == WORDS:
            payload[WORDS] = self._analyse.prepared(point.text)
        return payload

    def _delete(self, chosen: Any) -> None:
        self._change(self._kit.UpdateOperation.delete_points_by_filter(chosen))

    def search_bm25(
        self, text: str, limit: int, conditions: Sequence[Condition] = (), among: Sequence[str] | None = None
    ) -> list[Hit]:
        """See `Store`. The engine counts each term of a query once, BM25 as often as it occurs in the query, which
        matters for long questions. So the terms that occur at least twice are searched again, then those that occur
        at least three times, and so on; equal searches are done once."""
        repeated = self._analyse.repeated_terms(text)
        if not repeated:
            return self._by_distinct(text, limit, conditions, among)
        max_count = 1 + sum(times for _, times in repeated)
        max_repeated = sum(
            times * hits[0].score
            for words, times in repeated
            if (hits := self._by_distinct(words, 1, conditions, among))
        )
        depth = limit
        while True:
            scores = {hit.id: hit.score for hit in self._by_distinct(text, depth, conditions, among)}
            last = min(scores.values(), default=0.0)
            ids = list(scores)
            for words, times in repeated:
                for hit in self._by_distinct(words, len(ids), (), ids):
                    scores[hit.id] += times * hit.score
            best = sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))[:limit]
            # No other passage can score more than the last of these plus all its repeated terms.
            if len(scores) < depth or best[-1][1] >= min(last + max_repeated, last * max_count):
                return [Hit(name, score) for name, score in best]
            depth *= DEEPER

    def _by_distinct(
        self, text: str, limit: int, conditions: Sequence[Condition], among: Sequence[str] | None
    ) -> list[Hit]:
        if among is not None and not among:
            return []
        query = self._kit.TextQuery(self._bm25_field, self._analyse.prepared(text), scoring=self._scoring)
        return self._query(query, limit, self._filter(conditions, among), None)

    def _nearest(self, query: Any, using: str, limit: int, chosen: Any, params: Any) -> list[Hit]:
        return self._query(self._kit.Query.Nearest(query, using=using), limit, chosen, params)

    def _query(self, query: Any, limit: int, chosen: Any, params: Any) -> list[Hit]:
        request = self._kit.QueryRequest(limit=limit, query=query, filter=chosen, with_payload=False, params=params)
        with translated_errors(self._folder):
            points = self._shard.query(request)
        return [Hit(str(point.id), float(point.score)) for point in points]

    def fetch(self, ids: Sequence[str]) -> dict[str, Point]:
        with translated_errors(self._folder):
            records = self._shard.retrieve(list(ids), True, False)
        return {str(record.id): point_from(record.payload, record.vector) for record in records}

    def scan(self, batch: int = 1024, vectors: bool = False) -> Iterator[list[Point]]:
        after = None
        while True:
            request = self._kit.ScrollRequest(offset=after, limit=batch, with_payload=True, with_vector=vectors)
            with translated_errors(self._folder):
                records, after = self._shard.scroll(request)
            if records:
                yield [point_from(record.payload, record.vector) for record in records]
            if after is None:
                return

    def _count(self, chosen: Any) -> int:
        with translated_errors(self._folder):
            return int(self._shard.count(self._kit.CountRequest(filter=chosen)))

    def compact(self) -> None:
        with translated_errors(self._folder):
            self._shard.optimize()
            self._shard.flush()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._shard.close()

    def _change(self, operation: Any) -> None:
        self._size = None
        with translated_errors(self._folder):
            self._shard.update(operation)

    def _with_ids(self, ids: Sequence[str]) -> Any:
        return self._kit.HasIdCondition(set(ids))

    def _range(self, **bounds: Any) -> Any:
        return self._kit.RangeFloat(**bounds)


def bm25_field(language: str) -> str:
    """Return the field of the payload that BM25 searches: the text, or a copy of it that can be cut into terms."""
    return WORDS if is_spaceless(language) else TEXT


@contextlib.contextmanager
def translated_errors(folder: Path) -> Iterator[None]:
    """Turn the engine's bare exceptions into errors of this package that name the folder."""
    try:
        yield
    except EncoderyError:
        raise
    except Exception as error:
        message = str(error)
        if "WouldBlock" in message:
            raise ArtifactError(f"{folder}: is in use by another process; close it first.") from error
        if "No space left" in message or "OutOfDisk" in message or "disk" in message.lower():
            raise DiskFull(f"{folder}: no space left on the device. What was stored before is intact.") from error
        raise ArtifactError(f"{folder}: the search engine failed: {message}") from error
