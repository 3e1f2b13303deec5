"""Answers queries: by words, by what a model gives (see `sides.py`), or by all of it, mixed (see `fuse.py`); every hit
shows what it got at each stage.

Hybrid: the best candidates of each side are scored by the others as well, so that the mixture knows all scores of every
candidate; vectors of tokens only score what others found where there are very many passages. A reranker, if one is
given, reads the first of them with the query; its scores and those that found them are mixed once more, each brought to
a scale of 0..1 over those passages. Half and half unless told otherwise: a reranker that was trained on little has
something to say, and spoils the order where it alone decides (bench/LOG.md, Retrieval).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from encodery.base.errors import ContractError, EmptyInput, InputError, nearest
from encodery.search.filters import Condition
from encodery.search.fuse import FusionMethod, min_max_scaled, reciprocal_rank_fusion, weighted_sum
from encodery.search.rerank import Scorer
from encodery.search.retrievers import MultiVectorRetriever, Retriever
from encodery.search.search_index import BM25, SearchIndex, known_modes
from encodery.search.store import DOCUMENT, METADATA, NUMBER, Hit, Point

HYBRID = "hybrid"
DEPTH = 100
MULTI_VECTOR_EXHAUSTIVE = 10_000
"""Passages up to which a hybrid search compares the vectors of all tokens; beyond, those of the others' candidates."""
RERANK_TOP_K = 30
RERANK_WEIGHT = 0.5
FIRST = 1024  # Passages that are asked for the names of their fields.


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A passage found. `score` ranks, from 0 to 1 where a reranker was asked; `words` is its BM25 score, `vector` its
    inner product, `sparse` that of its learned sparse vector, `late` its MaxSim, `rerank` the reranker's score, None
    where not computed.

    `start` and `end` are its place in the document's text; `head` characters of `text` are the document's title, put
    before it; `matches` are the places in `text` of words that match the query's.
    """

    rank: int
    score: float
    bm25: float | None
    dense: float | None
    rerank: float | None
    document: str
    number: int
    text: str
    start: int
    end: int
    head: int
    metadata: dict[str, Any]
    matches: tuple[tuple[int, int], ...]
    sparse: float | None = None
    multi_vector: float | None = None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """`seconds`: stage (encode, words, vector, sparse, late, fuse, rerank, show) -> time taken, of those there were."""

    query: str
    mode: str
    hits: tuple[SearchHit, ...]
    seconds: dict[str, float]


class Searcher(SearchIndex):
    """An open index that answers queries. Opens like `Opened`; use it as a context, or close it."""

    def __enter__(self) -> Searcher:
        return self

    def warm(self) -> None:
        """Load the models, so that the first query is as fast as the next."""
        for side in self.retrievers:
            side.encode_query("warm up")

    def search(
        self,
        query: str,
        top: int = 10,
        mode: str | None = None,
        conditions: Sequence[Condition] = (),
        per_document: int | None = None,
        weight: float | Mapping[str, float] | None = None,
        fusion: str = "scores",
        reranker: Scorer | None = None,
        rerank_top_k: int = RERANK_TOP_K,
        rerank_weight: float = RERANK_WEIGHT,
    ) -> SearchResult:
        """The `top` passages for a query, best first.

        `mode`: hybrid, dense, sparse, multi_vector or bm25, of those the index has (`modes`), the first if not given.
        `per_document`: at most so many passages of one document. `weight`: share of the models' sides beside words, or
        mode -> share, instead of the index's. `fusion`: of scores, or of reciprocal ranks. `reranker` orders the first
        `reranked` passages (at least `top`) anew, and only those are shown; `mode` says how they are found, and
        `rerank_weight` how much of the last word is the reranker's: 1 for its order alone. Raises `EmptyInput` for an
        empty query, `InputError` for what cannot be asked.
        """
        chosen = self._mode(mode)
        if not query.strip():
            raise EmptyInput("The query is empty.")
        if top < 1 or (per_document is not None and per_document < 1):
            raise InputError(f"top = {top}, per_document = {per_document}: must be positive.")
        shares = self._shares(weight)
        if fusion not in get_args(FusionMethod):
            raise InputError(
                f"fusion = '{fusion}': is {' or '.join(get_args(FusionMethod))}.{nearest(fusion, get_args(FusionMethod))}"
            )
        if rerank_top_k < 1:
            raise InputError(f"reranked = {rerank_top_k}: must be positive.")
        if not 0 <= rerank_weight <= 1:
            raise InputError(
                f"rerank_weight = {rerank_weight}: is a share between 0 and 1 (the reranker's order alone)."
            )
        clock = _Clock()
        shown = top if reranker is None else max(top, rerank_top_k)
        depth = max(DEPTH, 4 * shown * (1 if per_document is None else 4))
        sides, scores = self._scored(query, chosen, shares, fusion, depth, conditions, clock)
        best = self._best(scores, shown, per_document)
        again: dict[str, float] = {}
        if reranker is not None:
            again = _reranked(reranker, query, best)
            first = {point.id: scores[point.id] for point in best}
            mixed = weighted_sum(
                [min_max_scaled(first, False), min_max_scaled(again, False)], [1 - rerank_weight, rerank_weight]
            )
            scores = scores | mixed
            best = sorted(best, key=lambda point: (-mixed[point.id], point.id))[:top]
            clock.stage("rerank")
        found = [self._found(query, point, rank, scores, sides, again) for rank, point in enumerate(best, 1)]
        clock.stage("show")
        return SearchResult(query, chosen, tuple(found), clock.seconds)

    def first_passages(self, query: str, count: int) -> list[tuple[Point, float]]:
        """The first passages for a query and what ranks them, by the index's first mode and its own weights."""
        _, scores = self._scored(query, self.modes[0], self.weights, "scores", max(DEPTH, 4 * count), (), _Clock())
        return [(point, scores[point.id]) for point in self._best(scores, count, None)]

    def unknown_fields(self, conditions: Sequence[Condition]) -> str:
        """In words, which fields of these conditions none of the first passages has; empty where each is known."""
        first = next(self.store.scan(FIRST), [])
        known = {DOCUMENT, NUMBER, *(name for point in first for name in point.payload[METADATA])}
        lacking = [one.field for one in conditions if one.field not in known]
        if not lacking:
            return ""
        near = nearest(lacking[0], known)
        return f"No passage of the first {len(first):,} has '{lacking[0]}'.{near} They have {', '.join(sorted(known))}."

    def _mode(self, mode: str | None) -> str:
        chosen = self.modes[0] if mode is None else mode
        if chosen not in known_modes():
            listed = ", ".join(known_modes())
            raise InputError(f"mode = '{mode}': is one of {listed}.{nearest(chosen, known_modes())}")
        if chosen == HYBRID and not self.models:
            raise InputError(f"{self.path}: was made without a model and can only be searched by words (bm25).")
        return chosen

    def _scored(
        self,
        query: str,
        mode: str,
        shares: Mapping[str, float],
        fusion: str,
        depth: int,
        conditions: Sequence[Condition],
        clock: _Clock,
    ) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
        """key of a side -> id -> score, and what ranks: those of the only side, or all mixed."""
        finders = self._finders(mode, shares)
        sides = self._candidates(query, finders, depth, conditions, clock)
        scores = _mixed(finders, sides, shares, fusion) if len(finders) > 1 else sides[finders[0].key]
        clock.stage("fuse")
        return sides, scores

    def _finders(self, mode: str, shares: Mapping[str, float]) -> list[Retriever]:
        """Those of a mode; of a hybrid one those that have a share."""
        hybrid = [one for one in (BM25.mode, *self.models) if shares[one]]
        return [self.retriever_of_mode(one) for one in (hybrid if mode == HYBRID else (mode,))]

    def _shares(self, weight: float | Mapping[str, float] | None) -> dict[str, float]:
        """mode -> share in hybrid ranking."""
        if weight is None:
            return self.weights
        if isinstance(weight, Mapping):
            strange = [mode for mode in weight if mode not in self.weights]
            if strange:
                known = f"{nearest(strange[0], self.weights)} It has {', '.join(self.weights)}."
                raise InputError(f"weight: '{strange[0]}' is no side of the index.{known}")
            given = {mode: float(weight.get(mode, 0.0)) for mode in self.weights}
            if min(given.values()) < 0 or not 0 < sum(given.values()) < float("inf"):
                raise InputError(f"weight = {dict(weight)}: shares are at least 0, and not all are.")
            return {mode: share / sum(given.values()) for mode, share in given.items()}
        if not 0 <= weight <= 1:
            raise InputError(f"weight = {weight}: is a share between 0 (words) and 1 (vectors).")
        return distribute_weight(self.models, weight, self.weights)

    def _candidates(
        self, query: str, finders: Sequence[Retriever], depth: int, conditions: Sequence[Condition], clock: _Clock
    ) -> dict[str, dict[str, float]]:
        """key of a side -> id -> score; where there are several, each candidate has a score on every side (0 without
        words)."""
        asked = {finder.key: finder.encode_query(query) for finder in finders}
        clock.stage("encode")
        sides: dict[str, dict[str, float]] = {}
        for finder in finders:
            follows = (
                len(finders) > 1
                and isinstance(finder, MultiVectorRetriever)
                and self.store.count() > MULTI_VECTOR_EXHAUSTIVE
            )
            hits = [] if follows else finder.retrieve(self.store, asked[finder.key], depth, conditions)
            sides[finder.key] = _scores(hits)
            clock.stage(finder.key)
        everything = dict.fromkeys(name for side in sides.values() for name in side)
        for finder in finders if len(finders) > 1 else ():
            held = sides[finder.key]
            unseen = [name for name in everything if name not in held]
            more = _scores(finder.retrieve(self.store, asked[finder.key], len(unseen) or 1, (), unseen))
            sides[finder.key] = held | (dict.fromkeys(unseen, 0.0) if finder.from_zero else {}) | more
            clock.stage(finder.key)
        return sides

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

    def _found(
        self,
        query: str,
        point: Point,
        rank: int,
        scores: dict[str, float],
        sides: dict[str, dict[str, float]],
        again: dict[str, float],
    ) -> SearchHit:
        payload = point.payload
        of_side = {key: side.get(point.id) for key, side in sides.items()}
        return SearchHit(
            rank=rank,
            score=scores[point.id],
            bm25=of_side.get("bm25"),
            dense=of_side.get("dense"),
            rerank=again.get(point.id),
            document=point.document,
            number=point.number,
            text=point.text,
            start=payload["start"],
            end=payload["end"],
            head=payload["head"],
            metadata=payload[METADATA],
            matches=tuple(self.store.matches(query, point.text)),
            sparse=of_side.get("sparse"),
            multi_vector=of_side.get("multi_vector"),
        )


def distribute_weight(
    modes: Sequence[str] | Mapping[str, Any], weight: float, proportions: Mapping[str, float]
) -> dict[str, float]:
    """mode -> share: `weight` over the models, in the proportions they have in `like` (evenly where all have none),
    the rest to words."""
    held = {mode: proportions.get(mode, 0.0) for mode in modes}
    if not sum(held.values()):
        held = dict.fromkeys(modes, 1.0)
    total = sum(held.values()) or 1.0
    return {BM25.mode: 1 - weight, **{mode: weight * share / total for mode, share in held.items()}}


def _mixed(
    finders: Sequence[Retriever], sides: Mapping[str, dict[str, float]], shares: Mapping[str, float], fusion: str
) -> dict[str, float]:
    weights = [shares[finder.mode] for finder in finders]
    if fusion == "scores":
        return weighted_sum([min_max_scaled(sides[finder.key], finder.from_zero) for finder in finders], weights)
    kept = [{n: s for n, s in sides[f.key].items() if s or not f.from_zero} for f in finders]
    return reciprocal_rank_fusion([_order(side) for side in kept], weights)


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
