"""Finds the weight of a reranker in an index, on the index's own passages, without labels.

As in `calibrate.py`, sentences taken out of passages are the queries. The sampled passages, those of the queries
without their sentence, are put into a small index built like this one, which retrieves the first passages; the reranker
scores them, and the weight with which both together rank the query's passage highest is searched on resamples of the
queries. The mean of these weights is stored in the index, by the folder of the reranker. It is not halved: a reranker
does not favour such queries, and the weight is close to or below the best one on judged queries (bench/LOG.md,
Retrieval).
Shapes: Q queries, W weights.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from encodery.base.artifact import Artifact, atomic_write
from encodery.base.errors import ArtifactError, EmptyInput
from encodery.search.build import fields_of
from encodery.search.calibrate import MIN_QUERIES, WEIGHTS, mean_best_weight, reciprocal_ranks, sentence_queries
from encodery.search.fuse import min_max_scaled
from encodery.search.rerank import Scorer
from encodery.search.sample import MAX_PASSAGES
from encodery.search.searcher import RERANK_TOP_K, RERANK_WEIGHT, Searcher
from encodery.search.store import Point, Store
from encodery.search.writer import encode_points, postprocess_points

MAX_QUERIES = 200
RERANK_WEIGHTS = "rerankers.json"


@dataclass(frozen=True)
class RerankWeight:
    """The `weight` of a reranker. `curve`: weight -> mean reciprocal rank on `queries` queries."""

    weight: float
    queries: int
    curve: dict[str, float]


def tune_rerank(
    searcher: Searcher,
    scorer: Scorer,
    max_queries: int = MAX_QUERIES,
    progress: Callable[[int, int], None] | None = None,
) -> RerankWeight:
    """Return the weight for the passages that the index's default mode retrieves.

    Args:
        max_queries: number of sentences used as queries, at most.
        progress: is called with the queries done and their number.

    Raises `EmptyInput` for an index with fewer than 30 sentences to use as queries.
    """
    index = searcher.index
    sample = heapq.nsmallest(MAX_PASSAGES, (point for batch in index.store.scan() for point in batch), key=_hash)
    queries = dict(list(sentence_queries(sample).items())[:max_queries])
    if len(queries) < MIN_QUERIES:
        raise EmptyInput(
            f"{index.path}: has {len(queries)} sentences to use as queries, {MIN_QUERIES} are needed. Give the weight "
            "of the reranker yourself."
        )
    texts = [queries[place][1] if place in queries else point.text for place, point in enumerate(sample)]
    points = [Point("", place, text, None) for place, text in enumerate(texts)]
    points = postprocess_points(encode_points(points, searcher.retrievers.models(), Counter()), index.postprocess)
    with tempfile.TemporaryDirectory() as folder:
        fields = fields_of(index.models, index.postprocess, index.settings.vectors)
        with index.settings.engine.scratch_engine().create(Path(folder) / "sample", fields) as store:
            store.upsert(points)
            store.compact()
            ranks = _ranks(searcher, store, scorer, queries, progress)
    means = zip(WEIGHTS, ranks.mean(axis=0), strict=True)
    curve = {str(weight): round(float(mean), 4) for weight, mean in means}
    return RerankWeight(round(mean_best_weight(ranks), 2), len(queries), curve)


def _ranks(
    searcher: Searcher,
    store: Store,
    scorer: Scorer,
    queries: Mapping[int, tuple[str, str]],
    progress: Callable[[int, int], None] | None,
) -> np.ndarray:
    """Reciprocal ranks (Q, W) of the queries' passages in the store of the sample."""
    scratch = Searcher(searcher.index.with_store(store), searcher.retrievers)
    ranks = []
    for done, (place, (query, _)) in enumerate(queries.items(), 1):
        first = scratch.first_passages(query, RERANK_TOP_K)
        rerank_scores = scorer.score(query, [point.text for point, _ in first])
        names = [str(point.number) for point, _ in first]
        before, after = (
            min_max_scaled(dict(zip(names, map(float, scores), strict=True)), False)
            for scores in ([score for _, score in first], rerank_scores)
        )
        ranks.append(reciprocal_ranks(before, after, str(place)))
        if progress is not None:
            progress(done, len(queries))
    return np.array(ranks)


def save_rerank_weight(index: Path, reranker: str | Path, rerank_weight: RerankWeight) -> None:
    """Store the weight of the reranker in a folder; those of other rerankers stay."""
    entry = {**asdict(rerank_weight), "fingerprint": _fingerprint(reranker)}
    atomic_write(index / RERANK_WEIGHTS, json.dumps(_read(index) | {_key(reranker): entry}, indent=1))


def rerank_weight_of(index: Path, reranker: str | Path) -> float:
    """Return the stored weight of the reranker in a folder; 0.5 if there is none, or if the reranker has changed."""
    entry = _read(index).get(_key(reranker))
    if entry is None or entry.get("fingerprint") != _fingerprint(reranker):
        return RERANK_WEIGHT
    weight: float = entry["weight"]
    return weight


def _read(index: Path) -> dict[str, dict[str, Any]]:
    file = index / RERANK_WEIGHTS
    try:
        stored = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return {folder: {**entry, "weight": float(entry["weight"])} for folder, entry in stored.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{file}: damaged: {error}") from error


def _key(reranker: str | Path) -> str:
    return str(Path(reranker).resolve())


def _fingerprint(reranker: str | Path) -> str:
    """Of a model of this package; empty for a stock folder, which is known by its path only."""
    artifacts = Artifact.find_all(reranker)
    return artifacts[-1].manifest.fingerprint if artifacts else ""


def _hash(point: Point) -> bytes:
    return hashlib.blake2b(point.id.encode(), digest_size=8).digest()
