"""What a search returns: the passages found, with the score of every stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from encodery.search.store import METADATA, Point


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A passage that was found.

    Attributes:
        score: what ranks the passages; between 0 and 1 if they were reranked.
        bm25, dense, sparse, multi_vector, rerank: the scores of single stages: BM25, inner products of dense and of
            learned sparse vectors, MaxSim of token vectors, and the reranker's; None if not computed.
        document, number: id of the document, and which of its passages this is, from 0.
        start, end: characters [start, end) of the passage in the text of the document.
        head: the first `head` characters of `text` are the document's title, which was put before the passage.
        matches: characters [begin, end) in `text` of words that match those of the query.
    """

    rank: int
    score: float
    bm25: float | None
    dense: float | None
    sparse: float | None
    multi_vector: float | None
    rerank: float | None
    document: str
    number: int
    text: str
    start: int
    end: int
    head: int
    metadata: dict[str, Any]
    matches: tuple[tuple[int, int], ...]

    @classmethod
    def of(
        cls,
        point: Point,
        rank: int,
        score: float,
        stages: Mapping[str, float | None],
        matches: tuple[tuple[int, int], ...],
    ) -> SearchHit:
        """Return the hit of a stored passage; `stages`: name of a stage -> score."""
        payload = point.payload
        return cls(
            rank=rank,
            score=score,
            bm25=stages.get("bm25"),
            dense=stages.get("dense"),
            sparse=stages.get("sparse"),
            multi_vector=stages.get("multi_vector"),
            rerank=stages.get("rerank"),
            document=point.document,
            number=point.number,
            text=point.text,
            start=payload["start"],
            end=payload["end"],
            head=payload["head"],
            metadata=payload[METADATA],
            matches=matches,
        )


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The hits of a query, best first. `seconds`: stage -> time; the stages are encode, one per mode, fuse, rerank and
    show, of those that ran."""

    query: str
    mode: str
    hits: tuple[SearchHit, ...]
    seconds: dict[str, float]
