"""The open store of a Qdrant collection.

BM25's weight of a word in a passage depends on the mean length of all passages, which changes as they come and go.
The first batch's mean serves until `settle`, which asks the server for the true one (a count of passages by length)
and makes all weights anew where it is off by more than `drift`. Each word's rarity is the server's own count, at
query time.
Shapes: H width of a vector, n tokens, K width of a token's vector.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from encodery.base.errors import ArtifactError, InputError
from encodery.search.engine._asking import Asking
from encodery.search.engine._journal import Journal
from encodery.search.engine._stored import check_query, payload_of, point_of, terms_of
from encodery.search.engine._words import Analyser
from encodery.search.filters import Condition, Value, alternatives
from encodery.search.store import DOCUMENT, METADATA, NUMBER, TEXT, Fields, Hit, Point, Store, Terms

DENSE, TERMS, TOKENS, WORDS = "dense", "terms", "tokens", "words"
LENGTH = "length"
"""Words of a passage, as BM25 counts them."""
DIFFERENT_LENGTHS = 100_000
SEARCH_EFFORT = 128  # Candidates an HNSW search keeps; with a graph only.
DELETE_AT_ONCE = 256


@dataclass(frozen=True)
class Note:
    """What the folder knows of its collection; `mean`: the length that BM25's weights are made for."""

    name: str
    url: str
    fields: Fields
    mean: float | None

    def text(self) -> str:
        """As it is stored."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def read(cls, file: Path) -> Note:
        """Raises `ArtifactError`."""
        try:
            held = json.loads(file.read_text(encoding="utf-8"))
            return cls(held["name"], held["url"], Fields(**held["fields"]), held["mean"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{file}: damaged: {error}") from error


class QdrantStore(Store):
    """`formula`: k, b and drift; `sizes`: points of a request, and vectors from which there is a graph; `keep` stores
    the note when it changes; `journal` where the collection is a stand-in in memory."""

    def __init__(
        self,
        asking: Asking,
        folder: Path,
        note: Note,
        analyse: Analyser,
        formula: tuple[float, float, float],
        sizes: tuple[int, int],
        keep: Callable[[Note], None],
        journal: Journal | None,
    ) -> None:
        from qdrant_client import models

        self._models: Any = models
        self._ask, self._folder, self._note, self._analyse = asking, folder, note, analyse
        self._k, self._b, self._drift = formula
        self._batch, self._graph_from = sizes
        self._keep, self.journal = keep, journal
        self._closed = False
        self._size: int | None = None  # of the whole store, until it changes here

    @property
    def _fields(self) -> Fields:
        return self._note.fields

    def upsert(self, points: Sequence[Point]) -> None:
        for point in points:
            self._fields.check(point)
        counts = [self._analyse.counts(point.text) for point in points]
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
        vectors: dict[str, Any] = {WORDS: self._weights(counts)}
        if self._fields.width is not None and point.vector is not None:
            vectors[DENSE] = point.vector.tolist()
        if self._fields.terms and point.terms is not None:
            vectors[TERMS] = self._sparse(point.terms)
        if self._fields.tokens is not None and point.tokens is not None:
            vectors[TOKENS] = point.tokens.tolist()
        payload = payload_of(point) | {LENGTH: sum(counts.values())}
        return self._models.PointStruct(id=point.id, vector=vectors, payload=payload)

    def _weights(self, counts: dict[int, int]) -> Any:
        """BM25's weights without the words' rarity: f (k + 1) / (f + k (1 - b + b L / L̄))."""
        mean = self._note.mean or 1.0
        room = self._k * (1 - self._b + self._b * sum(counts.values()) / mean)
        values = [count * (self._k + 1) / (count + room) for count in counts.values()]
        return self._models.SparseVector(indices=list(counts), values=values)

    def _sparse(self, terms: Terms) -> Any:
        return self._models.SparseVector(indices=terms.words.tolist(), values=terms.weights.tolist())

    def _remember(self, mean: float) -> None:
        self._note = replace(self._note, mean=mean)
        self._keep(self._note)

    def delete_documents(self, documents: Iterable[str]) -> None:
        ids = list(documents)
        for start in range(0, len(ids), DELETE_AT_ONCE):
            some = self._models.MatchAny(any=ids[start : start + DELETE_AT_ONCE])
            self._delete(self._models.Filter(must=[self._models.FieldCondition(key=DOCUMENT, match=some)]))

    def delete_where(self, conditions: Sequence[Condition]) -> int:
        if not conditions:
            raise InputError("Deleting by filter needs at least one condition.")
        number = self.count(conditions)
        self._delete(self._filter(conditions))
        return number

    def _delete(self, chosen: Any) -> None:
        if self.journal is not None:
            gone = [name for some in self._scrolled(chosen, False, self._batch) for name in (str(r.id) for r in some)]
            if gone:
                self.journal.add(removed=gone)
        self._size = None
        selector = self._models.FilterSelector(filter=chosen)
        self._ask(lambda client: client.delete(self._note.name, selector, wait=True))

    def forget(self, ids: Sequence[str]) -> None:
        """Remove points by id, as a journal has them."""
        if ids:
            selector = self._models.PointIdsList(points=list(ids))
            self._ask(lambda client: client.delete(self._note.name, selector, wait=True))

    def by_vector(
        self,
        vector: np.ndarray,
        limit: int,
        conditions: Sequence[Condition] = (),
        among: Sequence[str] | None = None,
    ) -> list[Hit]:
        check_query(self._folder, self._fields.width, vector.shape[-1], "vectors")
        if self._size is None:
            self._size = self.count()
        few = self._size < self._graph_from
        params = self._models.SearchParams(exact=few, hnsw_ef=None if few else max(SEARCH_EFFORT, limit))
        return self._query(vector.tolist(), DENSE, limit, conditions, among, params)

    def by_terms(
        self, terms: Terms, limit: int, conditions: Sequence[Condition] = (), among: Sequence[str] | None = None
    ) -> list[Hit]:
        check_query(self._folder, 0 if self._fields.terms else None, 0, "learned sparse vectors")
        if not len(terms.words):
            return []
        return self._query(self._sparse(terms), TERMS, limit, conditions, among, None)

    def by_tokens(
        self, tokens: np.ndarray, limit: int, conditions: Sequence[Condition] = (), among: Sequence[str] | None = None
    ) -> list[Hit]:
        check_query(self._folder, self._fields.tokens, tokens.shape[-1], "vectors of tokens")
        params = self._models.SearchParams(exact=True)
        return self._query(tokens.tolist(), TOKENS, limit, conditions, among, params)

    def by_words(
        self, text: str, limit: int, conditions: Sequence[Condition] = (), among: Sequence[str] | None = None
    ) -> list[Hit]:
        """See `Store`; each word as often as it stands in the query."""
        counts: Counter[int] = Counter(dict.fromkeys(self._analyse.words(text), 1))
        for again in self._analyse.repeated(text):
            counts.update(self._analyse.words(again))
        if not counts:
            return []
        asked = self._models.SparseVector(indices=list(counts), values=[float(count) for count in counts.values()])
        return self._query(asked, WORDS, limit, conditions, among, None)

    def _query(
        self,
        query: Any,
        using: str,
        limit: int,
        conditions: Sequence[Condition],
        among: Sequence[str] | None,
        params: Any,
    ) -> list[Hit]:
        if among is not None and not among:
            return []
        found = self._ask(
            lambda client: client.query_points(
                self._note.name,
                query=query,
                using=using,
                query_filter=self._filter(conditions, among),
                limit=limit,
                with_payload=False,
                search_params=params if self._note.url else None,  # The stand-in looks at everything.
            )
        )
        return [Hit(str(point.id), float(point.score)) for point in found.points]

    def fetch(self, ids: Sequence[str]) -> dict[str, Point]:
        records = self._ask(
            lambda client: client.retrieve(self._note.name, list(ids), with_payload=True, with_vectors=False)
        )
        return {str(record.id): _point(record) for record in records}

    def all(self, batch: int = 1024, vectors: bool = False) -> Iterator[list[Point]]:
        for records in self._scrolled(None, vectors, batch):
            yield [_point(record) for record in records]

    def _scrolled(self, chosen: Any, vectors: bool, batch: int) -> Iterator[list[Any]]:
        names = {DENSE: self._fields.width, TERMS: self._fields.terms, TOKENS: self._fields.tokens}
        wanted: Any = [name for name, held in names.items() if held] if vectors else False
        after = None
        while True:
            records, after = self._page(chosen, wanted, batch, after)
            if records:
                yield records
            if after is None:
                return

    def _page(self, chosen: Any, wanted: Any, batch: int, after: Any) -> tuple[list[Any], Any]:
        found: tuple[list[Any], Any] = self._ask(
            lambda client: client.scroll(
                self._note.name, chosen, limit=batch, offset=after, with_payload=True, with_vectors=wanted
            )
        )
        return found

    def documents(self) -> int:
        first = self._models.FieldCondition(key=NUMBER, match=self._models.MatchValue(value=0))
        return self._count(self._models.Filter(must=[first]))

    def count(self, conditions: Sequence[Condition] = ()) -> int:
        return self._count(self._filter(conditions))

    def _count(self, chosen: Any) -> int:
        return int(self._ask(lambda client: client.count(self._note.name, chosen, exact=True)).count)

    def matches(self, query: str, text: str) -> list[tuple[int, int]]:
        return self._analyse.matches(query, text)

    def settle(self) -> None:
        """See `Store`; the server merges by itself, here BM25's weights follow the mean length."""
        total = self._ask(lambda client: client.facet(self._note.name, LENGTH, limit=DIFFERENT_LENGTHS, exact=True))
        counts = {int(hit.value): int(hit.count) for hit in total.hits}
        if sum(counts) and self._note.mean is not None:
            mean = sum(length * count for length, count in counts.items()) / sum(counts.values())
            if abs(mean / self._note.mean - 1) > self._drift:
                self._remember(mean)
                self._weigh()
        if self.journal is not None:
            self.journal.rewrite(self.all(vectors=True))

    def _weigh(self) -> None:
        """Weights of all passages for the mean length noted."""
        for records in self._scrolled(None, False, self._batch):
            rows = [
                self._models.PointVectors(
                    id=record.id, vector={WORDS: self._weights(self._analyse.counts(record.payload[TEXT]))}
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

    def _filter(self, conditions: Sequence[Condition], among: Sequence[str] | None = None) -> Any:
        must = [self._condition(c) for c in conditions if c.operator != "!="]
        if among is not None:
            must.append(self._models.HasIdCondition(has_id=list(among)))
        must_not = [self._condition(c) for c in conditions if c.operator == "!="]
        return self._models.Filter(must=must or None, must_not=must_not or None) if must or must_not else None

    def _condition(self, condition: Condition) -> Any:
        """The engine's form of one condition; of `!=` its positive form, to be put under must_not."""
        key = condition.field if condition.field in (DOCUMENT, NUMBER) else f'{METADATA}."{condition.field}"'
        bounds = {">=": "gte", ">": "gt", "<=": "lte", "<": "lt"}
        if condition.operator in bounds:
            limits = self._models.Range(**{bounds[condition.operator]: condition.values[0]})
            return self._models.FieldCondition(key=key, range=limits)
        if condition.operator == "~":
            matches = [self._models.MatchSubstring(substring=str(value)) for value in condition.values]
            tests = [self._models.FieldCondition(key=key, match=match) for match in matches]
        else:
            tests = [self._equals(key, value) for written in condition.values for value in alternatives(written)]
        return self._models.Filter(should=tests)

    def _equals(self, key: str, value: Value) -> Any:
        if isinstance(value, float):
            return self._models.FieldCondition(key=key, range=self._models.Range(gte=value, lte=value))
        return self._models.FieldCondition(key=key, match=self._models.MatchValue(value=value))


def _point(record: Any) -> Point:
    payload = dict(record.payload)
    payload.pop(LENGTH, None)
    stored = record.vector or {}
    vector = None if DENSE not in stored else np.asarray(stored[DENSE], np.float32)
    tokens = None if TOKENS not in stored else np.asarray(stored[TOKENS], np.float32)
    sparse = stored.get(TERMS)
    return point_of(payload, vector, None if sparse is None else terms_of(sparse), tokens)
