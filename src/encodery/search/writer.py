"""Puts documents into a store: cut, encoded in batches of many passages, stored, and marked as done."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable

from encodery.corpus.document import Document
from encodery.embed.finishing import Finishing
from encodery.search.encoder import TextEncoder
from encodery.search.passages import Passages
from encodery.search.store import Point, Store

AT_ONCE = 1024  # Passages encoded and stored together.


class Writer:
    """`encoder` and `finishing` are None in an index of words alone.

    `counts`: `documents` and `passages` taken, `replaced` (documents that a later one with their id took the place
    of), `tokens` and `dropped_tokens` of the encoder.
    """

    def __init__(
        self,
        store: Store,
        passages: Passages,
        encoder: TextEncoder | None,
        finishing: Finishing | None,
        counts: Counter[str] | None = None,
    ) -> None:
        self.store, self.passages, self.encoder, self.finishing = store, passages, encoder, finishing
        self.counts: Counter[str] = Counter() if counts is None else counts
        self._seen: set[str] = set()

    def add(self, documents: Iterable[Document], mark: Callable[[], None], known: bool) -> None:
        """Store all documents; one whose id is there already replaces it, also where it has fewer passages.

        `mark` is called whenever what was counted is stored; `known` says that documents from before may be stored.
        """
        held: dict[str, list[Point]] = {}
        taken = size = 0
        for document in documents:
            points = self.passages.points(document, self.encoder)
            size += len(points)
            taken += 1
            self.counts["replaced"] += document.id in held
            held[document.id] = points
            if size >= AT_ONCE:
                self._store(held, taken, known)
                mark()
                held, taken, size = {}, 0, 0
        if taken:
            self._store(held, taken, known)
            mark()

    def _store(self, held: dict[str, list[Point]], taken: int, known: bool) -> None:
        points = [point for several in held.values() for point in several]
        if self.encoder is not None and self.finishing is not None:
            embedded = self.encoder.encode([point.text for point in points], truncate="right")
            vectors = self.finishing.apply(embedded.vectors)
            points = [dataclasses.replace(p, vector=v) for p, v in zip(points, vectors, strict=True)]
            self.counts["tokens"] += int(embedded.tokens.sum())
            self.counts["dropped_tokens"] += int(embedded.dropped.sum())
        again = [name for name in held if name in self._seen]
        self.counts["replaced"] += len(again)
        self.store.delete_documents(held if known else again)
        self.store.upsert(points)
        self._seen.update(held)
        self.counts["documents"] += taken
        self.counts["passages"] += len(points)
