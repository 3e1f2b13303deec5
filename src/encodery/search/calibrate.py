"""Finds the weight of the models against BM25 in hybrid ranking, on the documents themselves, without labels.

One sentence is taken out of each of some sampled passages and used as a query: at which rank is its passage found? The
weight of the fusion (`fuse.py`) with the best mean reciprocal rank is searched on resamples of the queries, and the
mean of these weights is halved: such queries resemble their passages and lack the exact words that people search for,
so they favour the models. The mean over resamples does not claim more than a few queries can show; the best weight of
a single sample would be unstable. A weight below 0.05 becomes 0, which saves encoding the query. Each model is measured
alone against BM25, and the odds are combined.

Shapes: Q queries, P passages of the sample, W weights.
"""

from __future__ import annotations

import random
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from encodery.search.engine import SearchEngine
from encodery.search.fuse import min_max_scaled, weighted_sum
from encodery.search.modes import BM25, DENSE
from encodery.search.retrievers import ModelRetriever
from encodery.search.store import Fields, Point
from encodery.search.writer import encode_points, postprocess_points

MAX_QUERIES = 300
MIN_QUERIES = 30  # With fewer nothing is measured.
CANDIDATES = 100
MAX_RANK = 10  # A passage beyond counts as not found.
WEIGHTS = tuple(round(0.1 * step, 1) for step in range(11))
DEFAULT_WEIGHT = 0.2
CORRECTION = 0.5
RESAMPLES = 200
MIN_WEIGHT = 0.05
MIN_SENTENCE_WORDS = 6
SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s+|\n+")


@dataclass(frozen=True)
class Calibration:
    """`weights`: mode -> weight in hybrid ranking. `curves`: mode -> weight against BM25 alone -> mean reciprocal rank
    on `queries` queries, if measured."""

    weights: dict[str, float]
    queries: int = 0
    curves: dict[str, dict[str, float]] | None = None

    @property
    def weight(self) -> float:
        """The weight of all models together."""
        return round(1 - self.weights[BM25], 4)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the weight as plain values, as an index stores them."""
        return {"weight": self.weight, **asdict(self)}


def fixed_weights(modes: Sequence[str], weight: float) -> Calibration:
    """Return a given weight of all models together, divided equally."""
    if not modes:
        return Calibration({BM25: 1.0})
    return Calibration({BM25: 1 - weight, **{mode: weight / len(modes) for mode in modes}})


def combined_weights(single_weights: Mapping[str, float]) -> dict[str, float]:
    """Return mode -> weight from the weight of each model against BM25 alone, by combining their odds."""
    odds = {BM25: 1.0, **{mode: weight / (1 - weight) for mode, weight in single_weights.items()}}
    return {mode: round(value / sum(odds.values()), 4) for mode, value in odds.items()}


def calibrate(sample: Sequence[Point], retrievers: Sequence[ModelRetriever], engine: SearchEngine) -> Calibration:
    """Return the weights for an index.

    Args:
        sample: (P) passages of the index with their embeddings, after post-processing.

    A sample with fewer than 30 sentences to use as queries gets the default weight.
    """
    queries = sentence_queries(sample)
    if len(queries) < MIN_QUERIES:
        default = fixed_weights([retriever.mode for retriever in retrievers], DEFAULT_WEIGHT)
        return replace(default, queries=len(queries))
    targets = list(queries)
    texts = [query for query, _ in queries.values()]
    bm25_scores = _bm25_scores(sample, queries, engine)
    curves, single_weights = {}, {}
    for retriever in retrievers:
        encoded = [retriever.encode_query(text) for text in texts]
        scores = retriever.similarity(encoded, _without_queries(sample, queries, retriever))
        rows = zip(bm25_scores, scores, targets, strict=True)
        ranks = np.array([_reciprocal_ranks_of_query(*row, retriever.from_zero) for row in rows])
        means = zip(WEIGHTS, ranks.mean(axis=0), strict=True)
        curves[retriever.mode] = {str(weight): round(float(mean), 4) for weight, mean in means}
        single_weights[retriever.mode] = best_weight(ranks)
    return Calibration(combined_weights(single_weights), len(texts), curves)


def _bm25_scores(
    sample: Sequence[Point], queries: Mapping[int, tuple[str, str]], engine: SearchEngine
) -> list[dict[str, float]]:
    """For each query: position in the sample -> BM25 score, in passages without the sentences of the queries."""
    scratch = engine.scratch_engine()
    with tempfile.TemporaryDirectory() as folder, scratch.create(Path(folder) / "sample", Fields()) as store:
        texts = [queries[place][1] if place in queries else point.text for place, point in enumerate(sample)]
        points = [Point("", place, text, None) for place, text in enumerate(texts)]
        store.upsert(points)
        store.compact()
        places = {point.id: str(point.number) for point in points}
        hits = [store.search_bm25(query, len(sample)) for query, _ in queries.values()]
        return [{places[hit.id]: hit.score for hit in some} for some in hits]


def _without_queries(
    sample: Sequence[Point], queries: Mapping[int, tuple[str, str]], retriever: ModelRetriever
) -> list[Any]:
    """The embeddings of the sample; those of the passages of queries are computed again without the sentence."""
    values = [getattr(point, retriever.mode) for point in sample]
    shortened = [Point("", place, rest, None) for place, (_, rest) in queries.items()]
    encoded = encode_points(shortened, [retriever], Counter())
    if retriever.mode == DENSE:
        encoded = postprocess_points(encoded, retriever.postprocess)
    for point in encoded:
        values[point.number] = getattr(point, retriever.mode)
    return values


def best_weight(ranks: np.ndarray) -> float:
    """Return the weight of a model from the reciprocal ranks (Q, W) of the queries."""
    weight = CORRECTION * mean_best_weight(ranks)
    return round(weight, 2) if weight >= MIN_WEIGHT else 0.0


def mean_best_weight(ranks: np.ndarray) -> float:
    """Return the mean over resamples of the queries of the weight with the best mean reciprocal rank.

    Args:
        ranks: (Q, W) reciprocal ranks. Of several weights that are equally good the smallest counts.
    """
    generator, count = np.random.default_rng(0), len(ranks)
    best = [ranks[generator.integers(0, count, count)].mean(axis=0).argmax() for _ in range(RESAMPLES)]
    return float(np.mean([WEIGHTS[place] for place in best]))


def sentence_queries(sample: Sequence[Point]) -> dict[int, tuple[str, str]]:
    """Return position in the sample -> (a sentence of that passage, the passage without it), for up to 300 passages."""
    generator = random.Random(0)
    queries: dict[int, tuple[str, str]] = {}
    for place, point in enumerate(sample):
        head = point.text[: point.payload.get("head", 0)]
        sentences = [s for s in SENTENCE_END.split(point.text[len(head) :]) if s.strip()]
        long = [number for number, s in enumerate(sentences) if len(s.split()) >= MIN_SENTENCE_WORDS]
        if len(sentences) < 3 or not long or len(queries) == MAX_QUERIES:
            continue
        chosen = generator.choice(long)
        queries[place] = (sentences[chosen], head + " ".join(sentences[:chosen] + sentences[chosen + 1 :]))
    return queries


def _reciprocal_ranks_of_query(
    bm25_scores: dict[str, float], model_scores: np.ndarray, target: int, from_zero: bool
) -> list[float]:
    """For each weight the reciprocal rank of the target among the candidates of both retrievers."""
    count = min(CANDIDATES, len(model_scores))
    nearest = np.argpartition(-model_scores, count - 1)[:count]
    by_bm25 = sorted(bm25_scores, key=lambda name: -bm25_scores[name])[:CANDIDATES]
    candidates = {str(place) for place in nearest} | set(by_bm25)
    first = min_max_scaled({name: bm25_scores.get(name, 0.0) for name in candidates}, True)
    second = min_max_scaled({name: float(model_scores[int(name)]) for name in candidates}, from_zero)
    return reciprocal_ranks(first, second, str(target))


def reciprocal_ranks(first: Mapping[str, float], second: Mapping[str, float], target: str) -> list[float]:
    """Return, for each weight of the second of two tables of scores, the reciprocal rank of the target.

    It is 0 beyond rank 10. Among equal scores the target has their middle rank, so that a model that scores all
    passages equally finds nothing.
    """
    ranks = []
    for weight in WEIGHTS:
        mixed = weighted_sum([first, second], [1 - weight, weight])
        own = mixed.get(target)
        above = 0 if own is None else sum(score > own for score in mixed.values())
        equal = 0 if own is None else sum(score == own for score in mixed.values())
        rank = above + (equal + 1) / 2
        ranks.append(1 / rank if own is not None and rank <= MAX_RANK else 0.0)
    return ranks
