"""A sample of an input's passages: the same for the same documents, whatever their order, in bounded memory."""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
from collections.abc import Iterable

from encodery.corpus.document import Document
from encodery.search.passages import Passages
from encodery.search.retrievers import ModelRetriever
from encodery.search.store import Point

DOCUMENTS = 1500
PASSAGES = 1500
PASSAGES_OF_ONE = 100
CHARACTERS = 20_000  # Of one document: a long one gives a stretch of it.


def sample_documents(documents: Iterable[Document], passages: Passages, retriever: ModelRetriever) -> list[Point]:
    """Up to 1,500 passages of up to as many documents, those whose ids have the smallest hashes; as evenly from each
    as there are passages."""
    kept: list[tuple[int, int, Document]] = []
    for number, document in enumerate(documents):
        # heapq keeps the smallest at the front: the negative hash makes that the first to go.
        entry = (-_hash(document.id), number, _stretch(document))
        if len(kept) < DOCUMENTS:
            heapq.heappush(kept, entry)
        elif entry > kept[0]:
            heapq.heapreplace(kept, entry)
    cuts = [passages.points(document, retriever) for _, _, document in sorted(kept, reverse=True)]
    share = max(PASSAGES // max(len(cuts), 1), 1)
    chosen = [point for points in cuts for point in _some(points, share)]
    return chosen[:PASSAGES]


def sample_passages(documents: Iterable[tuple[str, list[Point]]]) -> list[Point]:
    """The same of documents that are cut into passages already, given with their ids."""
    kept: list[tuple[int, int, list[Point]]] = []
    for number, (document, points) in enumerate(documents):
        entry = (-_hash(document), number, _some(points, PASSAGES_OF_ONE))
        if len(kept) < DOCUMENTS:
            heapq.heappush(kept, entry)
        elif entry > kept[0]:
            heapq.heapreplace(kept, entry)
    share = max(PASSAGES // max(len(kept), 1), 1)
    return [point for _, _, points in sorted(kept, reverse=True) for point in points[:share]][:PASSAGES]


def _stretch(document: Document) -> Document:
    """The document, or that many characters of it from a place its id decides."""
    beyond = len(document.text) - CHARACTERS
    if beyond <= 0:
        return document
    start = _hash(document.id) % beyond
    return dataclasses.replace(document, text=document.text[start : start + CHARACTERS])


def _some(points: list[Point], share: int) -> list[Point]:
    return sorted(points, key=lambda point: _hash(point.id))[:share]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
