"""A sample of the passages of an input: the same for the same documents in any order, in bounded memory."""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
from collections.abc import Iterable

from encodery.corpus.document import Document
from encodery.search.passages import Passages
from encodery.search.retrievers import ModelRetriever
from encodery.search.store import Point

MAX_DOCUMENTS = 1500
MAX_PASSAGES = 1500
MAX_PASSAGES_PER_DOCUMENT = 100
MAX_CHARACTERS = 20_000  # Of one document; a longer one contributes a part of this length.


def sample_documents(documents: Iterable[Document], passages: Passages, retriever: ModelRetriever) -> list[Point]:
    """Return up to 1,500 passages of up to 1,500 documents, those whose ids have the smallest hashes, as evenly from
    each document as possible."""
    kept: list[tuple[int, int, Document]] = []
    for number, document in enumerate(documents):
        # heapq keeps the smallest entry first: with negative hashes that is the one to replace.
        entry = (-_hash(document.id), number, _part(document))
        if len(kept) < MAX_DOCUMENTS:
            heapq.heappush(kept, entry)
        elif entry > kept[0]:
            heapq.heapreplace(kept, entry)
    by_document = [passages.points(document, retriever) for _, _, document in sorted(kept, reverse=True)]
    count = max(MAX_PASSAGES // max(len(by_document), 1), 1)
    return [point for points in by_document for point in _first_by_hash(points, count)][:MAX_PASSAGES]


def sample_passages(documents: Iterable[tuple[str, list[Point]]]) -> list[Point]:
    """Return the same sample of documents that are divided into passages already, given with their ids."""
    kept: list[tuple[int, int, list[Point]]] = []
    for number, (document, points) in enumerate(documents):
        entry = (-_hash(document), number, _first_by_hash(points, MAX_PASSAGES_PER_DOCUMENT))
        if len(kept) < MAX_DOCUMENTS:
            heapq.heappush(kept, entry)
        elif entry > kept[0]:
            heapq.heapreplace(kept, entry)
    count = max(MAX_PASSAGES // max(len(kept), 1), 1)
    return [point for _, _, points in sorted(kept, reverse=True) for point in points[:count]][:MAX_PASSAGES]


def _part(document: Document) -> Document:
    """The document, or `MAX_CHARACTERS` of it from a position that its id decides."""
    rest = len(document.text) - MAX_CHARACTERS
    if rest <= 0:
        return document
    start = _hash(document.id) % rest
    return dataclasses.replace(document, text=document.text[start : start + MAX_CHARACTERS])


def _first_by_hash(points: list[Point], count: int) -> list[Point]:
    return sorted(points, key=lambda point: _hash(point.id))[:count]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
