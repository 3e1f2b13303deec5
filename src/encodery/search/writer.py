"""Puts documents into a store: encoded in batches of many passages, stored, and marked as done."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from encodery.embed.finishing import Finishing
from encodery.search.sides import Side
from encodery.search.store import Point, Store

AT_ONCE = 1024  # Passages encoded and stored together.


class Piece(NamedTuple):
    """A document's id and its passages; `number`: its place among all documents."""

    document: str
    points: list[Point]
    number: int


def grouped(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Documents in groups of so many passages, the last one less."""
    held: list[Piece] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece.points)
        if size >= AT_ONCE:
            yield held
            held, size = [], 0
    if held:
        yield held


def filled(points: Sequence[Point], sides: Sequence[Side], counts: Counter[str]) -> list[Point]:
    """The points with what each model gives them, raw; `tokens` and `dropped_tokens` are counted."""
    found = list(points)
    for side in sides:
        columns = side.encode([point.text for point in found])
        found = [dataclasses.replace(p, **{side.field: v}) for p, v in zip(found, columns.values, strict=True)]
        counts["tokens"] += columns.tokens
        counts["dropped_tokens"] += columns.dropped
    return found


def finished(points: Sequence[Point], finishing: Finishing | None) -> list[Point]:
    """The points, their vectors after the index's own steps."""
    if finishing is None or not points:
        return list(points)
    vectors = finishing.apply(np.stack([point.vector for point in points if point.vector is not None]))
    return [dataclasses.replace(point, vector=vector) for point, vector in zip(points, vectors, strict=True)]


class Writer:
    """`sides` are empty in an index of words alone, and where passages come with what models give them.

    `counts`: `documents` and `passages` taken, `replaced` (documents that a later one with their id took the place
    of), `tokens` and `dropped_tokens` of the models.
    """

    def __init__(
        self,
        store: Store,
        sides: Sequence[Side],
        finishing: Finishing | None,
        counts: Counter[str] | None = None,
    ) -> None:
        self.store, self.sides, self.finishing = store, sides, finishing
        self.counts: Counter[str] = Counter() if counts is None else counts
        self._seen: set[str] = set()

    def add(self, pieces: Iterable[Piece], mark: Callable[[], None], known: bool) -> None:
        """Store all documents; one whose id is there already replaces it, also where it has fewer passages.

        `mark` is called whenever what was counted is stored; `known` says that documents from before may be stored.
        """
        for group in grouped(pieces):
            held = {piece.document: piece.points for piece in group}
            self.counts["replaced"] += len(group) - len(held)
            self._store(held, len(group), known)
            mark()

    def _store(self, held: dict[str, list[Point]], taken: int, known: bool) -> None:
        points = [point for several in held.values() for point in several]
        points = finished(filled(points, self.sides, self.counts), self.finishing)
        again = [name for name in held if name in self._seen]
        self.counts["replaced"] += len(again)
        self.store.delete_documents(held if known else again)
        self.store.upsert(points)
        self._seen.update(held)
        self.counts["documents"] += taken
        self.counts["passages"] += len(points)
