"""The open store of a Qdrant collection.

BM25's weight of a term in a passage depends on the mean length of all passages, which changes as they come and go. The
mean of the first batch is used until `compact`, which asks the server for the true mean (a count of passages by length)
and computes all weights again if it is off by more than `drift`. The rarity of each term is the server's own count at
query time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from encodery.base.errors import ArtifactError
from encodery.search.engine._analyser import Analyser
from encodery.search.engine._client import RetryingClient
from encodery.search.engine._journal import PointJournal
from encodery.search.engine._points import DENSE, TERMS, TOKENS, PointStore, point_from
from encodery.search.engine._stored import payload_of
from encodery.search.filters import Condition
from encodery.search.store import TEXT, Fields, Hit, Point

BM25 = "bm25"
LENGTH = "length"
"""Words of a passage, as BM25 counts them."""
DIFFERENT_LENGTHS = 100_000


@dataclass(frozen=True)
class Note:
    """What the folder knows of its collection. `mean`: the length that BM25's weights were computed for."""

    name: str
    url: str
    fields: Fields
    mean: float | None

    def text(self) -> str:
        """Return the note as it is stored."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def read(cls, file: Path) -> Note:
        """Read a stored note. Raises `ArtifactError`."""
        try:
            held = json.loads(file.read_text(encoding="utf-8"))
            return cls(held["name"], held["url"], Fields(**held["fields"]), held["mean"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{file}: damaged: {error}") from error


class QdrantStore(PointStore):
    """A store over a collection. `formula`: k, b and drift; `sizes`: points per request, and number of vectors from
    which there is a graph; `keep` stores the note when it changes; `journal`: of an in-memory collection."""

    def __init__(
        self,
        asking: RetryingClient,
        folder: Path,
        note: Note,
        analyse: Analyser,
        formula: tuple[float, float, float],
        sizes: tuple[int, int],
        keep: Callable[[Note], None],
        journal: PointJournal | None,
    ) -> None:
        from qdrant_client import models

        super().__init__(models, folder, analyse, sizes[1])
        self._ask, self._note = asking, note
        self._k, self._b, self._drift = formula
        self._batch = sizes[0]
        self._keep, self.journal = keep, journal

    @property
    def _fields(self) -> Fields:
        return self._note.fields

    def upsert(self, points: Sequence[Point]) -> None:
        for point in points:
            self._fields.check(point)
        counts = [self._analyse.term_counts(point.text) for point in points]
        if self._note.mean is None and any(counts):
            self._remember(sum(sum(words.values()) for words in counts) / len(counts))
        self._size = None
        for start in range(0, len(points), self._batch):
            some = range(start, min(start + self._batch, len(points)))
            self._put([self._row(points[i], counts[i]) for i in some])
        if self.journal is not None and points:
            self.journal.add(points=points)

    def _put(self, rows: list[Any]) -> None:
        self._ask(lambda client: client.upsert(self._note.name, rows, wait=True))

    def _row(self, point: Point, counts: dict[int, int]) -> Any:
        vectors = {BM25: self._weights(counts), **self._vectors(point)}
        payload = payload_of(point) | {LENGTH: sum(counts.values())}
        return self._kit.PointStruct(id=point.id, vector=vectors, payload=payload)

    def _weights(self, counts: dict[int, int]) -> Any:
        """BM25's weights without the rarity of terms: f (k + 1) / (f + k (1 - b + b L / L̄))."""
        mean = self._note.mean or 1.0
        room = self._k * (1 - self._b + self._b * sum(counts.values()) / mean)
        values = [count * (self._k + 1) / (count + room) for count in counts.values()]
        return self._kit.SparseVector(indices=list(counts), values=values)

    def _remember(self, mean: float) -> None:
        self._note = replace(self._note, mean=mean)
        self._keep(self._note)

    def _delete(self, chosen: Any) -> None:
        if self.journal is not None:
            gone = [name for some in self._scrolled(chosen, False, self._batch) for name in (str(r.id) for r in some)]
            if gone:
                self.journal.add(removed=gone)
        self._size = None
        selector = self._kit.FilterSelector(filter=chosen)
        self._ask(lambda client: client.delete(self._note.name, selector, wait=True))

    def forget(self, ids: Sequence[str]) -> None:
        """Delete points by id, as a journal stores them."""
        if ids:
            selector = self._kit.PointIdsList(points=list(ids))
            self._ask(lambda client: client.delete(self._note.name, selector, wait=True))

    def search_bm25(
        self, text: str, limit: int, conditions: Sequence[Condition] = (), among: Sequence[str] | None = None
    ) -> list[Hit]:
        """See `Store`. Each term counts as often as it occurs in the query."""
        counts: Counter[int] = Counter(dict.fromkeys(self._analyse.term_ids(text), 1))
        for words, times in self._analyse.repeated_terms(text):
            for term in self._analyse.term_ids(words):
                counts[term] += times
        if not counts:
            return []
        vector = self._kit.SparseVector(indices=list(counts), values=[float(count) for count in counts.values()])
        return self._near(vector, BM25, limit, (conditions, among), None)

    def _nearest(self, query: Any, using: str, limit: int, chosen: Any, params: Any) -> list[Hit]:
        answer = self._ask(
            lambda client: client.query_points(
                self._note.name,
                query=query,
                using=using,
                query_filter=chosen,
                limit=limit,
                with_payload=False,
                search_params=params if self._note.url else None,  # The stand-in looks at everything.
            )
        )
        return [Hit(str(point.id), float(point.score)) for point in answer.points]

    def fetch(self, ids: Sequence[str]) -> dict[str, Point]:
        records = self._ask(
            lambda client: client.retrieve(self._note.name, list(ids), with_payload=True, with_vectors=False)
        )
        return {str(record.id): _point(record) for record in records}

    def scan(self, batch: int = 1024, vectors: bool = False) -> Iterator[list[Point]]:
        for records in self._scrolled(None, vectors, batch):
            yield [_point(record) for record in records]

    def _scrolled(self, chosen: Any, vectors: bool, batch: int) -> Iterator[list[Any]]:
        names = {DENSE: self._fields.dense_dim, TERMS: self._fields.sparse, TOKENS: self._fields.multi_vector_dim}
        fields: Any = [name for name, held in names.items() if held] if vectors else False
        after = None
        while True:
            records, after = self._page(chosen, fields, batch, after)
            if records:
                yield records
            if after is None:
                return

    def _page(self, chosen: Any, fields: Any, batch: int, after: Any) -> tuple[list[Any], Any]:
        page: tuple[list[Any], Any] = self._ask(
            lambda client: client.scroll(
                self._note.name, chosen, limit=batch, offset=after, with_payload=True, with_vectors=fields
            )
        )
        return page

    def _count(self, chosen: Any) -> int:
        return int(self._ask(lambda client: client.count(self._note.name, chosen, exact=True)).count)

    def compact(self) -> None:
        """See `Store`. The server merges by itself; here BM25's weights follow the mean length."""
        total = self._ask(lambda client: client.facet(self._note.name, LENGTH, limit=DIFFERENT_LENGTHS, exact=True))
        counts = {int(hit.value): int(hit.count) for hit in total.hits}
        if sum(counts) and self._note.mean is not None:
            mean = sum(length * count for length, count in counts.items()) / sum(counts.values())
            if abs(mean / self._note.mean - 1) > self._drift:
                self._remember(mean)
                self._weigh()
        if self.journal is not None:
            self.journal.rewrite(self.scan(vectors=True))

    def _weigh(self) -> None:
        """Compute the weights of all passages for the current mean length."""
        for records in self._scrolled(None, False, self._batch):
            rows = [
                self._kit.PointVectors(
                    id=record.id, vector={BM25: self._weights(self._analyse.term_counts(record.payload[TEXT]))}
                )
                for record in records
            ]
            self._replace(rows)

    def _replace(self, rows: list[Any]) -> None:
        self._ask(lambda client: client.update_vectors(self._note.name, rows, wait=True))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._ask.close()
            if self.journal is not None:
                self.journal.close()

    def _with_ids(self, ids: Sequence[str]) -> Any:
        return self._kit.HasIdCondition(has_id=list(ids))

    def _range(self, **bounds: Any) -> Any:
        return self._kit.Range(**bounds)


def _point(record: Any) -> Point:
    payload = dict(record.payload)
    payload.pop(LENGTH, None)
    return point_from(payload, record.vector)
