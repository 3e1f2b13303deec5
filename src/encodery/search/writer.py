"""Writes documents to a store: their passages are encoded in large batches, stored, and reported as done."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from encodery.encoders.postprocessing import PostProcessing
from encodery.search.retrievers import ModelRetriever
from encodery.search.store import Point, Store

PASSAGES_AT_ONCE = 1024
"""Passages that are encoded and stored together."""


class DocumentPassages(NamedTuple):
    """The passages of one document. `number` is the place of the document among all documents."""

    document: str
    passages: list[Point]
    number: int


def in_groups(documents: Iterable[DocumentPassages]) -> Iterator[list[DocumentPassages]]:
    """Yield groups of documents with at least `PASSAGES_AT_ONCE` passages; the last group may have fewer."""
    group: list[DocumentPassages] = []
    size = 0
    for document in documents:
        group.append(document)
        size += len(document.passages)
        if size >= PASSAGES_AT_ONCE:
            yield group
            group, size = [], 0
    if group:
        yield group


def encode_points(points: Sequence[Point], retrievers: Sequence[ModelRetriever], counts: Counter[str]) -> list[Point]:
    """Return the points with the embeddings of every model, before post-processing; add to the counts `tokens` and
    `dropped_tokens`."""
    encoded = list(points)
    for retriever in retrievers:
        values, embeddings = retriever.encode_passages([point.text for point in encoded])
        encoded = [
            dataclasses.replace(point, **{retriever.mode: value}) for point, value in zip(encoded, values, strict=True)
        ]
        counts["tokens"] += int(embeddings.tokens.sum())
        counts["dropped_tokens"] += int(embeddings.dropped.sum())
    return encoded


def postprocess_points(points: Sequence[Point], postprocess: PostProcessing | None) -> list[Point]:
    """Return the points with the index's own steps applied to their dense vectors."""
    if postprocess is None or not points:
        return list(points)
    vectors = postprocess.apply(np.stack([point.dense for point in points if point.dense is not None]))
    return [dataclasses.replace(point, dense=vector) for point, vector in zip(points, vectors, strict=True)]


class StoreWriter:
    """Writes the passages of documents to a store.

    Args:
        retrievers: of the models that encode the passages; empty in an index of BM25 alone, and if the passages come
            encoded.
        counts: is added to: `documents` and `passages` written, `replaced` (documents that a later one with the same id
            replaced), and the models' `tokens` and `dropped_tokens`.
    """

    def __init__(
        self,
        store: Store,
        retrievers: Sequence[ModelRetriever],
        postprocess: PostProcessing | None,
        counts: Counter[str] | None = None,
    ) -> None:
        self.store, self.retrievers, self.postprocess = store, retrievers, postprocess
        self.counts: Counter[str] = Counter() if counts is None else counts
        self._written: set[str] = set()

    def add(self, documents: Iterable[DocumentPassages], on_stored: Callable[[], None], may_exist: bool) -> None:
        """Store all documents; one whose id is stored already replaces it, even if it has fewer passages.

        Args:
            on_stored: is called after each group, when everything in `counts` is stored.
            may_exist: whether the store may hold documents from before, which are then deleted first.
        """
        for group in in_groups(documents):
            passages = {document.document: document.passages for document in group}
            self.counts["replaced"] += len(group) - len(passages)
            self._store(passages, len(group), may_exist)
            on_stored()

    def _store(self, passages: dict[str, list[Point]], documents: int, may_exist: bool) -> None:
        points = [point for own in passages.values() for point in own]
        points = postprocess_points(encode_points(points, self.retrievers, self.counts), self.postprocess)
        again = [name for name in passages if name in self._written]
        self.counts["replaced"] += len(again)
        self.store.delete_documents(passages if may_exist else again)
        self.store.upsert(points)
        self._written.update(passages)
        self.counts["documents"] += documents
        self.counts["passages"] += len(points)
