"""Puts documents into a store: encoded in batches of many passages, stored, and marked as done."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from encodery.encoders.postprocessing import PostProcessing
from encodery.search.retrievers import ModelRetriever
from encodery.search.store import Point, Store

AT_ONCE = 1024  # Passages encoded and stored together.


class DocumentPassages(NamedTuple):
    """A document's id and its passages; `number`: its place among all documents."""

    document: str
    passages: list[Point]
    number: int


def in_groups(pieces: Iterable[DocumentPassages]) -> Iterator[list[DocumentPassages]]:
    """Documents in groups of so many passages, the last one less."""
    held: list[DocumentPassages] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece.passages)
        if size >= AT_ONCE:
            yield held
            held, size = [], 0
    if held:
        yield held


def encode_points(points: Sequence[Point], retrievers: Sequence[ModelRetriever], counts: Counter[str]) -> list[Point]:
    """The points with what each model gives them, raw; `tokens` and `dropped_tokens` are counted."""
    found = list(points)
    for side in retrievers:
        columns = side.encode_passages([point.text for point in found])
        found = [dataclasses.replace(p, **{side.field: v}) for p, v in zip(found, columns.values, strict=True)]
        counts["tokens"] += columns.tokens
        counts["dropped_tokens"] += columns.dropped
    return found


def postprocess_points(points: Sequence[Point], postprocess: PostProcessing | None) -> list[Point]:
    """The points, their vectors after the index's own steps."""
    if postprocess is None or not points:
        return list(points)
    vectors = postprocess.apply(np.stack([point.dense for point in points if point.dense is not None]))
    return [dataclasses.replace(point, dense=vector) for point, vector in zip(points, vectors, strict=True)]


class StoreWriter:
    """`sides` are empty in an index of words alone, and where passages come with what models give them.

    `counts`: `documents` and `passages` taken, `replaced` (documents that a later one with their id took the place
    of), `tokens` and `dropped_tokens` of the models.
    """

    def __init__(
        self,
        store: Store,
        sides: Sequence[ModelRetriever],
        finishing: PostProcessing | None,
        counts: Counter[str] | None = None,
    ) -> None:
        self.store, self.retrievers, self.postprocess = store, sides, finishing
        self.counts: Counter[str] = Counter() if counts is None else counts
        self._seen: set[str] = set()

    def add(self, pieces: Iterable[DocumentPassages], mark: Callable[[], None], known: bool) -> None:
        """Store all documents; one whose id is there already replaces it, also where it has fewer passages.

        `mark` is called whenever what was counted is stored; `known` says that documents from before may be stored.
        """
        for group in in_groups(pieces):
            held = {piece.document: piece.passages for piece in group}
            self.counts["replaced"] += len(group) - len(held)
            self._store(held, len(group), known)
            mark()

    def _store(self, held: dict[str, list[Point]], taken: int, known: bool) -> None:
        points = [point for several in held.values() for point in several]
        points = postprocess_points(encode_points(points, self.retrievers, self.counts), self.postprocess)
        again = [name for name in held if name in self._seen]
        self.counts["replaced"] += len(again)
        self.store.delete_documents(held if known else again)
        self.store.upsert(points)
        self._seen.update(held)
        self.counts["documents"] += taken
        self.counts["passages"] += len(points)
