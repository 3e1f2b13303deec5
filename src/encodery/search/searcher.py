"""Searches an index: by BM25, by one of its models, or hybrid, which mixes the scores of all of them.

In a hybrid search the best candidates of each retriever are also scored by the others, so that the mixture knows every
score of every candidate. In an index of more than 10,000 passages the multi-vector retriever only scores the candidates
of the others. A reranker, if one is given, scores the first passages together with the query; its scores and those that
ranked them are brought to a scale of 0 to 1 over these passages and mixed. Both have the weight 0.5 by default: a
reranker that was trained on few examples improves the order, and spoils it if it decides alone (bench/LOG.md,
Retrieval).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from encodery.base.errors import ContractError, EmptyInput, InputError, nearest
from encodery.search.filters import Condition
from encodery.search.fuse import (
    FusionMethod,
    distribute_weight,
    min_max_scaled,
    normalised_weights,
    reciprocal_rank_fusion,
    weighted_sum,
)
from encodery.search.index import SearchIndex
from encodery.search.index_retrievers import IndexRetrievers
from encodery.search.modes import ALL_MODES, BM25, HYBRID, MULTI_VECTOR
from encodery.search.rerank import Scorer
from encodery.search.results import SearchHit, SearchResult
from encodery.search.retrievers import Retriever
from encodery.search.store import DOCUMENT, METADATA, NUMBER, Hit, Point

MIN_CANDIDATES = 100
"""Candidates of each retriever, at least."""
CANDIDATES_PER_HIT = 4
"""Candidates of each retriever per passage that is returned or reranked."""
CANDIDATES_PER_DOCUMENT_LIMIT = 4
"""By how much more if the passages of one document are limited, since many candidates are then left out."""
MULTI_VECTOR_EXHAUSTIVE = 10_000
"""Passages up to which a hybrid search compares all token vectors; beyond, only those of the other candidates."""
RERANK_TOP_K = 30
RERANK_WEIGHT = 0.5
FIELD_SAMPLE = 1024  # Passages whose metadata fields count as known.

Scores = dict[str, float]
"""Id of a passage -> score."""


@dataclass(frozen=True)
class Reranking:
    """How the first passages are reranked.

    Args:
        scorer: an open reranker.
        top_k: number of passages that it scores, at least as many as are returned.
        weight: of its scores against the scores that ranked the passages before; 1 ranks by the reranker alone.
    """

    scorer: Scorer
    top_k: int = RERANK_TOP_K
    weight: float = RERANK_WEIGHT

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise InputError(f"rerank_top_k = {self.top_k}: must be at least 1.")
        if not 0 <= self.weight <= 1:
            raise InputError(f"rerank_weight = {self.weight}: must be between 0 and 1 (the reranker's order alone).")


class Searcher:
    """Searches an index with its retrievers. Use it as a context, or close it.

    with Searcher.open("index") as searcher:
        for hit in searcher.search("the captain and the letter", top_k=3).hits:
            print(hit.score, hit.text)
    """

    def __init__(self, index: SearchIndex, retrievers: IndexRetrievers) -> None:
        self.index, self.retrievers = index, retrievers

    @classmethod
    def open(
        cls,
        folder: str | Path,
        encoders: Any = None,
        model: str | Path | Sequence[str | Path] | None = None,
        runtime: str | None = None,
    ) -> Searcher:
        """Open an index and its retrievers; the models are loaded when they are first needed.

        Args:
            encoders, model, runtime: see `IndexRetrievers`.

        Raises as `SearchIndex` and `IndexRetrievers`.
        """
        index = SearchIndex(folder)
        try:
            return cls(index, IndexRetrievers(index, encoders, model, runtime))
        except BaseException:
            index.close()
            raise

    @property
    def warnings(self) -> tuple[str, ...]:
        """See `IndexRetrievers.warnings`."""
        return self.retrievers.warnings

    def warm_up(self) -> None:
        """Load the models, so that the first query is as fast as those after it."""
        for retriever in self.retrievers.models():
            retriever.encode_query("warm up")

    def search(
        self,
        query: str,
        top_k: int = 10,
        mode: str | None = None,
        conditions: Sequence[Condition] = (),
        per_document: int | None = None,
        weight: float | Mapping[str, float] | None = None,
        fusion: str = "scores",
        reranking: Reranking | None = None,
    ) -> SearchResult:
        """Return the best passages for a query, best first.

        Args:
            top_k: number of passages returned, at most.
            mode: hybrid, dense, sparse, multi_vector or bm25, of those the index has; by default its first.
            conditions: filters on the metadata, all of which must hold (`filters.parse`).
            per_document: number of passages of one document, at most.
            weight: of all models together against BM25 in hybrid search, or mode -> weight; by default the index's.
            fusion: "scores" mixes scores, "ranks" mixes reciprocal ranks.
            reranking: rerank the first passages. Only those are returned.

        Raises `EmptyInput` for an empty query, and `InputError` for an argument that is not allowed.
        """
        mode = self._check_mode(mode)
        if not query.strip():
            raise EmptyInput("The query is empty.")
        if top_k < 1 or (per_document is not None and per_document < 1):
            raise InputError(f"top_k = {top_k}, per_document = {per_document}: must be at least 1.")
        weights = self._weights(weight)
        if fusion not in get_args(FusionMethod):
            methods = get_args(FusionMethod)
            raise InputError(f"fusion = '{fusion}': must be {' or '.join(methods)}.{nearest(fusion, methods)}")
        clock = _Clock()
        count = top_k if reranking is None else max(top_k, reranking.top_k)
        limit = max(MIN_CANDIDATES, CANDIDATES_PER_HIT * count)
        limit *= 1 if per_document is None else CANDIDATES_PER_DOCUMENT_LIMIT
        retrievers = self._retrievers(mode, weights)
        by_mode = self._candidates(query, retrievers, limit, conditions, clock)
        scores = _fused(retrievers, by_mode, weights, fusion)
        clock.stage("fuse")
        points = self._best(scores, count, per_document)
        rerank_scores: Scores = {}
        if reranking is not None:
            rerank_scores = _reranked(reranking.scorer, query, points)
            mixed = _mix(points, scores, rerank_scores, reranking.weight)
            scores = scores | mixed
            points = sorted(points, key=lambda point: (-mixed[point.id], point.id))[:top_k]
            clock.stage("rerank")
        hits = []
        for rank, point in enumerate(points, 1):
            stages = {
                name: stage_scores.get(point.id) for name, stage_scores in (*by_mode.items(), ("rerank", rerank_scores))
            }
            matches = tuple(self.index.store.matches(query, point.text))
            hits.append(SearchHit.of(point, rank, scores[point.id], stages, matches))
        clock.stage("show")
        return SearchResult(query, mode, tuple(hits), clock.seconds)

    def first_passages(self, query: str, count: int) -> list[tuple[Point, float]]:
        """Return the first passages in the index's default mode, with the scores that rank them."""
        retrievers = self._retrievers(self.index.modes[0], self.index.weights)
        limit = max(MIN_CANDIDATES, CANDIDATES_PER_HIT * count)
        by_mode = self._candidates(query, retrievers, limit, (), _Clock())
        scores = _fused(retrievers, by_mode, self.index.weights, "scores")
        return [(point, scores[point.id]) for point in self._best(scores, count, None)]

    def unknown_fields(self, conditions: Sequence[Condition]) -> str:
        """Return a message if the first passages have no field that a condition names; empty if all are known."""
        passages = next(self.index.store.scan(FIELD_SAMPLE), [])
        known = {DOCUMENT, NUMBER, *(name for point in passages for name in point.payload[METADATA])}
        unknown = [condition.field for condition in conditions if condition.field not in known]
        if not unknown:
            return ""
        hint = nearest(unknown[0], known)
        fields = ", ".join(sorted(known))
        return f"None of the first {len(passages):,} passages has a field '{unknown[0]}'.{hint} Fields: {fields}."

    def close(self) -> None:
        """Close the index."""
        self.index.close()

    def __enter__(self) -> Searcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_mode(self, mode: str | None) -> str:
        if mode is None:
            return self.index.modes[0]
        if mode not in ALL_MODES:
            raise InputError(f"mode = '{mode}': must be one of {', '.join(ALL_MODES)}.{nearest(mode, ALL_MODES)}")
        if mode == HYBRID and not self.index.models:
            raise InputError(f"{self.index.path}: was built without a model; it can be searched by bm25 only.")
        return mode

    def _weights(self, weight: float | Mapping[str, float] | None) -> dict[str, float]:
        """Mode -> weight in hybrid ranking."""
        weights = self.index.weights
        if weight is None:
            return weights
        if isinstance(weight, Mapping):
            return normalised_weights(weight, tuple(weights))
        if not 0 <= weight <= 1:
            raise InputError(f"weight = {weight}: must be between 0 (BM25 only) and 1 (models only).")
        return distribute_weight(tuple(self.index.models), weight, weights)

    def _retrievers(self, mode: str, weights: Mapping[str, float]) -> list[Retriever]:
        """The retriever of a mode; for hybrid search those that have a weight."""
        modes = [name for name in (BM25, *self.index.models) if weights[name]] if mode == HYBRID else [mode]
        return [self.retrievers.of_mode(name) for name in modes]

    def _candidates(
        self, query: str, retrievers: Sequence[Retriever], limit: int, conditions: Sequence[Condition], clock: _Clock
    ) -> dict[str, Scores]:
        """Mode -> scores. If there are several retrievers, each candidate gets a score from each (0 without terms)."""
        store, several = self.index.store, len(retrievers) > 1
        encoded = {retriever.mode: retriever.encode_query(query) for retriever in retrievers}
        clock.stage("encode")
        by_mode: dict[str, Scores] = {}
        for retriever in retrievers:
            mode = retriever.mode
            scores_only = several and mode == MULTI_VECTOR and store.count() > MULTI_VECTOR_EXHAUSTIVE
            by_mode[mode] = {} if scores_only else _scores(retriever.retrieve(store, encoded[mode], limit, conditions))
            clock.stage(mode)
        if not several:
            return by_mode
        candidates = dict.fromkeys(name for scores in by_mode.values() for name in scores)
        for retriever in retrievers:
            mode, scores = retriever.mode, by_mode[retriever.mode]
            unscored = [name for name in candidates if name not in scores]
            more = _scores(retriever.retrieve(store, encoded[mode], len(unscored) or 1, (), unscored))
            by_mode[mode] = scores | (dict.fromkeys(unscored, 0.0) if retriever.from_zero else {}) | more
            clock.stage(mode)
        return by_mode

    def _best(self, scores: Scores, count: int, per_document: int | None) -> list[Point]:
        """The first `count` points, with at most `per_document` of one document."""
        order = _order(scores)
        taken: Counter[str] = Counter()
        best: list[Point] = []
        while order and len(best) < count:
            batch, order = order[:count], order[count:]
            points = self.index.store.fetch(batch)
            for point in (points[name] for name in batch if name in points):
                taken[point.document] += 1
                if per_document is None or taken[point.document] <= per_document:
                    best.append(point)
        return best[:count]


def _fused(
    retrievers: Sequence[Retriever], by_mode: Mapping[str, Scores], weights: Mapping[str, float], fusion: str
) -> Scores:
    """The scores that rank: those of the only retriever, or those of all, mixed."""
    if len(retrievers) == 1:
        return by_mode[retrievers[0].mode]
    own = [weights[retriever.mode] for retriever in retrievers]
    if fusion == "scores":
        return weighted_sum([min_max_scaled(by_mode[r.mode], r.from_zero) for r in retrievers], own)
    retrieved = [{n: s for n, s in by_mode[r.mode].items() if s or not r.from_zero} for r in retrievers]
    return reciprocal_rank_fusion([_order(scores) for scores in retrieved], own)


def _reranked(scorer: Scorer, query: str, points: Sequence[Point]) -> Scores:
    """The reranker's scores of some passages."""
    if not points:
        return {}
    scores = np.asarray(scorer.score(query, [point.text for point in points]), np.float64)
    if scores.shape != (len(points),) or not np.isfinite(scores).all():
        raise ContractError(f"A reranker returns one finite score per text: {scores.shape} for {len(points)} texts.")
    return {point.id: float(score) for point, score in zip(points, scores, strict=True)}


def _mix(points: Sequence[Point], scores: Scores, rerank_scores: Scores, weight: float) -> Scores:
    """The scores before and those of the reranker, each on a scale of 0 to 1 over these points."""
    before = {point.id: scores[point.id] for point in points}
    return weighted_sum([min_max_scaled(before, False), min_max_scaled(rerank_scores, False)], [1 - weight, weight])


def _order(scores: Scores) -> list[str]:
    """Ids, best first; equal scores by id, so that the order is always the same."""
    return sorted(scores, key=lambda name: (-scores[name], name))


def _scores(hits: Sequence[Hit]) -> Scores:
    return {hit.id: hit.score for hit in hits}


class _Clock:
    """Seconds since the previous stage, summed per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def stage(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now
