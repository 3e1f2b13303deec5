"""Answers queries: by words, by vector, or by both, mixed (see `fuse.py`); every hit shows what it got at each stage.

Hybrid: the best candidates of both sides are scored by the other side as well, so that the mixture knows both scores
of every candidate. A reranker, if one is given, reads the first of them with the query and orders those anew.
Shapes: K width of a stored vector.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from encodery.base.errors import ContractError, EmptyInput, InputError, nearest
from encodery.search.filters import Condition
from encodery.search.fuse import Method, by_ranks, by_scores
from encodery.search.opened import Opened
from encodery.search.rerank import Scorer
from encodery.search.store import METADATA, Hit, Point

Mode = Literal["hybrid", "dense", "bm25"]
DEPTH = 100
RERANKED = 30


@dataclass(frozen=True, slots=True)
class Found:
    """A passage found. `score` ranks; `words` is its BM25 score, `vector` its inner product, `rerank` the reranker's
    score, None where not computed.

    `start` and `end` are its place in the document's text; `head` characters of `text` are the document's title, put
    before it; `matches` are the places in `text` of words that match the query's.
    """

    rank: int
    score: float
    words: float | None
    vector: float | None
    rerank: float | None
    document: str
    number: int
    text: str
    start: int
    end: int
    head: int
    metadata: dict[str, Any]
    matches: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """`seconds`: stage (encode, words, vector, fuse, rerank, show) -> time taken, of the stages there were."""

    query: str
    mode: Mode
    found: tuple[Found, ...]
    seconds: dict[str, float]


class Searcher(Opened):
    """An open index that answers queries. Opens like `Opened`; use it as a context, or close it."""

    def __enter__(self) -> Searcher:
        return self

    def warm(self) -> None:
        """Load the model, so that the first query is as fast as the next."""
        if self.has_vectors:
            self._vector("warm up")

    def search(
        self,
        query: str,
        top: int = 10,
        mode: str | None = None,
        conditions: Sequence[Condition] = (),
        per_document: int | None = None,
        weight: float | None = None,
        fusion: str = "scores",
        reranker: Scorer | None = None,
        reranked: int = RERANKED,
    ) -> Answer:
        """The `top` passages for a query, best first.

        `mode`: hybrid, dense or bm25; hybrid if not given, bm25 in an index of words alone. `per_document`: at most so
        many passages of one document. `weight`: share of the vectors, instead of the index's. `fusion`: of scores, or
        of reciprocal ranks. `reranker` orders the first `reranked` passages (at least `top`) anew, and only those are
        shown; `mode` says how they are found. Raises `EmptyInput` for an empty query, `InputError` for what cannot be
        asked.
        """
        chosen = self._mode(mode)
        if not query.strip():
            raise EmptyInput("The query is empty.")
        if top < 1 or (per_document is not None and per_document < 1):
            raise InputError(f"top = {top}, per_document = {per_document}: must be positive.")
        if weight is not None and not 0 <= weight <= 1:
            raise InputError(f"weight = {weight}: is a share between 0 (words) and 1 (vectors).")
        if fusion not in get_args(Method):
            raise InputError(
                f"fusion = '{fusion}': is {' or '.join(get_args(Method))}.{nearest(fusion, get_args(Method))}"
            )
        if reranked < 1:
            raise InputError(f"reranked = {reranked}: must be positive.")
        clock = _Clock()
        shown = top if reranker is None else max(top, reranked)
        depth = max(DEPTH, 4 * shown * (1 if per_document is None else 4))
        words, vectors = self._candidates(query, chosen, depth, conditions, clock)
        share = self.weight if weight is None else weight
        scores = _mixed(words, vectors, share, fusion) if chosen == "hybrid" else (words or vectors)
        clock.stage("fuse")
        best = self._best(scores, shown, per_document)
        again: dict[str, float] = {}
        if reranker is not None:
            again = _reranked(reranker, query, best)
            best = sorted(best, key=lambda point: (-again[point.id], point.id))[:top]
            clock.stage("rerank")
        found = [
            self._found(query, point, rank, scores, words, vectors, again, chosen) for rank, point in enumerate(best, 1)
        ]
        clock.stage("show")
        return Answer(query, chosen, tuple(found), clock.seconds)

    def _mode(self, mode: str | None) -> Mode:
        if mode is None:
            return "hybrid" if self.has_vectors else "bm25"
        for known in get_args(Mode):
            if mode == known:
                if known != "bm25" and not self.has_vectors:
                    raise InputError(f"{self.path}: was made without a model and can only be searched by words (bm25).")
                return known  # type: ignore[no-any-return]
        known_modes = get_args(Mode)
        raise InputError(f"mode = '{mode}': is one of {', '.join(known_modes)}.{nearest(mode, known_modes)}")

    def _candidates(
        self, query: str, mode: Mode, depth: int, conditions: Sequence[Condition], clock: _Clock
    ) -> tuple[dict[str, float], dict[str, float]]:
        """id -> score by words, and by vector; in hybrid mode each candidate has both (0 without words)."""
        words: dict[str, float] = {}
        vectors: dict[str, float] = {}
        vector = None if mode == "bm25" else self._vector(query)
        clock.stage("encode")
        if mode != "dense":
            words = _scores(self.store.by_words(query, depth, conditions))
            clock.stage("words")
        if vector is not None:
            vectors = _scores(self.store.by_vector(vector, depth, conditions))
            if mode == "hybrid":
                unseen = [name for name in words if name not in vectors]
                vectors |= _scores(self.store.by_vector(vector, len(unseen) or 1, among=unseen))
            clock.stage("vector")
        if mode == "hybrid":
            unseen = [name for name in vectors if name not in words]
            words |= dict.fromkeys(unseen, 0.0) | _scores(self.store.by_words(query, len(unseen) or 1, among=unseen))
            clock.stage("words")
        return words, vectors

    def _best(self, scores: dict[str, float], top: int, per_document: int | None) -> list[Point]:
        """The first `top` points, with at most so many of one document."""
        order = _order(scores)
        shown: Counter[str] = Counter()
        best: list[Point] = []
        while order and len(best) < top:
            some, order = order[:top], order[top:]
            held = self.store.fetch(some)
            for point in (held[name] for name in some if name in held):
                shown[point.document] += 1
                if per_document is None or shown[point.document] <= per_document:
                    best.append(point)
        return best[:top]

    def _vector(self, query: str) -> np.ndarray:
        """The query's finished vector (K,). A query longer than the model takes is read in windows."""
        assert self.finishing is not None
        vector: np.ndarray = self.finishing.apply(self.encoder.encode([query], truncate="chunk").vectors)[0]
        return vector

    def _found(
        self,
        query: str,
        point: Point,
        rank: int,
        scores: dict[str, float],
        words: dict[str, float],
        vectors: dict[str, float],
        again: dict[str, float],
        mode: Mode,
    ) -> Found:
        payload = point.payload
        return Found(
            rank=rank,
            score=again.get(point.id, scores[point.id]),
            words=words.get(point.id) if mode != "dense" else None,
            vector=vectors.get(point.id) if mode != "bm25" else None,
            rerank=again.get(point.id),
            document=point.document,
            number=point.number,
            text=point.text,
            start=payload["start"],
            end=payload["end"],
            head=payload["head"],
            metadata=payload[METADATA],
            matches=tuple(self.store.matches(query, point.text)),
        )


def _mixed(words: dict[str, float], vectors: dict[str, float], weight: float, fusion: str) -> dict[str, float]:
    if fusion == "scores":
        return by_scores(words, vectors, weight)
    orders = [_order({name: score for name, score in side.items() if score}) for side in (words, vectors)]
    return by_ranks(orders, (1 - weight, weight))


def _reranked(reranker: Scorer, query: str, points: Sequence[Point]) -> dict[str, float]:
    """id -> the reranker's score."""
    if not points:
        return {}
    scores = np.asarray(reranker.score(query, [point.text for point in points]), np.float64)
    if scores.shape != (len(points),) or not np.isfinite(scores).all():
        raise ContractError(f"A reranker gives one finite score a text: {scores.shape} for {len(points)}.")
    return {point.id: float(score) for point, score in zip(points, scores, strict=True)}


def _order(scores: dict[str, float]) -> list[str]:
    """Ids, best first; equal scores by id, so that the order is always the same."""
    return sorted(scores, key=lambda name: (-scores[name], name))


def _scores(hits: list[Hit]) -> dict[str, float]:
    return {hit.id: hit.score for hit in hits}


class _Clock:
    """Time since the last stage, added up per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def stage(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now
