"""How much a model's scores deserve beside words: measured on the documents themselves, without labels.

From a sample of passages one sentence each is taken out and asked as a query: is the passage it came from found among
the others? The weight of the mixture (`fuse.py`) with the best mean reciprocal rank is sought on resamples of the
queries; the mean of what they find is halved: such queries are kin to their passages and lack the exact words that
people ask with, so they flatter the model. A mean over resamples says no more than few queries can tell; the best
weight of one sample would jump. Less than a twentieth is none, which saves encoding the query. Several models are
measured one by one against words, and their odds put together.

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
from encodery.search.retrievers import BM25Retriever, DenseRetriever, ModelRetriever
from encodery.search.store import Fields, Point
from encodery.search.writer import encode_points, postprocess_points

QUERIES = 300
MIN_QUERIES = 30  # Queries below which nothing is measured.
DEPTH = 100
WEIGHTS = tuple(round(0.1 * step, 1) for step in range(11))
FALLBACK = 0.2
HALVED = 0.5
RESAMPLES = 200
LEAST = 0.05
LEAST_WORDS = 6
SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|\n+")


@dataclass(frozen=True)
class Calibration:
    """`weights`: mode -> share in hybrid ranking. `curves`: mode -> weight beside words alone -> mean reciprocal rank
    on `queries` queries, where measured."""

    weights: dict[str, float]
    queries: int = 0
    curves: dict[str, dict[str, float]] | None = None

    @property
    def weight(self) -> float:
        """The share of all models together."""
        return round(1 - self.weights[BM25Retriever.mode], 4)

    def to_dict(self) -> dict[str, Any]:
        """As it is stored."""
        return {"weight": self.weight, **asdict(self)}


def fixed_weights(modes: Sequence[str], weight: float) -> Calibration:
    """The weight of all models together given, and shared evenly."""
    if not modes:
        return Calibration({BM25Retriever.mode: 1.0})
    return Calibration({BM25Retriever.mode: 1 - weight, **{mode: weight / len(modes) for mode in modes}})


def combined_weights(single_weights: Mapping[str, float]) -> dict[str, float]:
    """mode -> share, from the weight that each deserves beside words alone: odds against words, put together."""
    odds = {BM25Retriever.mode: 1.0, **{mode: weight / (1 - weight) for mode, weight in single_weights.items()}}
    return {mode: round(odd / sum(odds.values()), 4) for mode, odd in odds.items()}


def calibrate(sample: Sequence[Point], retrievers: Sequence[ModelRetriever], engine: SearchEngine) -> Calibration:
    """The weights for an index of which `sample` (P) are passages, with what the models give them, vectors finished.

    Samples that give fewer than thirty queries get the fallback weight.
    """
    asked = sentence_queries(sample)
    if len(asked) < MIN_QUERIES:
        return replace(fixed_weights([side.mode for side in retrievers], FALLBACK), queries=len(asked))
    targets = list(asked)
    queries = [query for query, _ in asked.values()]
    words = _by_words(sample, asked, engine)
    curves, alone = {}, {}
    for side in retrievers:
        scores = side.similarity([side.encode_query(query) for query in queries], _left(sample, asked, side))
        ranks = np.array([_ranks(*given, side.from_zero) for given in zip(words, scores, targets, strict=True)])
        means = zip(WEIGHTS, ranks.mean(axis=0), strict=True)
        curves[side.mode] = {str(weight): round(float(mean), 4) for weight, mean in means}
        alone[side.mode] = best_weight(ranks)
    return Calibration(combined_weights(alone), len(queries), curves)


def _by_words(
    sample: Sequence[Point], asked: Mapping[int, tuple[str, str]], engine: SearchEngine
) -> list[dict[str, float]]:
    """For each query: place in the sample -> BM25 score, where the asked passages lack their sentence."""
    with (
        tempfile.TemporaryDirectory() as folder,
        engine.scratch_engine().create(Path(folder) / "sample", Fields()) as store,
    ):
        texts = [asked[place][1] if place in asked else point.text for place, point in enumerate(sample)]
        points = [Point("", place, text, None) for place, text in enumerate(texts)]
        store.upsert(points)
        store.compact()
        places = {point.id: str(point.number) for point in points}
        every = [store.search_bm25(query, len(sample)) for query, _ in asked.values()]
        return [{places[hit.id]: hit.score for hit in hits} for hits in every]


def _left(sample: Sequence[Point], asked: Mapping[int, tuple[str, str]], side: ModelRetriever) -> list[Any]:
    """What a model gives the passages of the sample, the asked ones without their sentence."""
    found = [getattr(point, side.field) for point in sample]
    again = encode_points([Point("", place, rest, None) for place, (_, rest) in asked.items()], [side], Counter())
    if isinstance(side, DenseRetriever):
        again = postprocess_points(again, side.postprocess)
    for point in again:
        found[point.number] = getattr(point, side.field)
    return found


def best_weight(ranks: np.ndarray) -> float:
    """The weight of a model that reciprocal ranks (Q, W) speak for."""
    weight = HALVED * mean_best_weight(ranks)
    return round(weight, 2) if weight >= LEAST else 0.0


def mean_best_weight(ranks: np.ndarray) -> float:
    """The mean over resamples of the queries of the weight with the best reciprocal ranks (Q, W); of equally good ones
    the smallest counts."""
    draw, count = np.random.default_rng(0), len(ranks)
    best = [ranks[draw.integers(0, count, count)].mean(axis=0).argmax() for _ in range(RESAMPLES)]
    return float(np.mean([WEIGHTS[place] for place in best]))


def sentence_queries(sample: Sequence[Point]) -> dict[int, tuple[str, str]]:
    """Place in the sample -> (a sentence of that passage, the passage without it)."""
    draw = random.Random(0)
    found: dict[int, tuple[str, str]] = {}
    for place, point in enumerate(sample):
        head = point.text[: point.payload.get("head", 0)]
        sentences = [s for s in SENTENCE.split(point.text[len(head) :]) if s.strip()]
        long = [number for number, s in enumerate(sentences) if len(s.split()) >= LEAST_WORDS]
        if len(sentences) < 3 or not long or len(found) == QUERIES:
            continue
        chosen = draw.choice(long)
        found[place] = (sentences[chosen], head + " ".join(sentences[:chosen] + sentences[chosen + 1 :]))
    return found


def _ranks(words: dict[str, float], row: np.ndarray, target: int, from_zero: bool) -> list[float]:
    """For each weight the reciprocal rank of the target among the candidates of both sides."""
    count = min(DEPTH, len(row))
    nearest = np.argpartition(-row, count - 1)[:count]
    candidates = {str(place) for place in nearest} | set(sorted(words, key=lambda name: -words[name])[:DEPTH])
    by_words = min_max_scaled({name: words.get(name, 0.0) for name in candidates}, True)
    by_model = min_max_scaled({name: float(row[int(name)]) for name in candidates}, from_zero)
    return reciprocal_ranks(by_words, by_model, str(target))


def reciprocal_ranks(first: Mapping[str, float], second: Mapping[str, float], target: str) -> list[float]:
    """For each weight of the second of two sides, on one scale, the reciprocal rank of the target, 0 beyond the tenth;
    among equals it is in their middle, so that a model which scores all alike finds nothing."""
    found = []
    for weight in WEIGHTS:
        mixed = weighted_sum([first, second], [1 - weight, weight])
        own = mixed.get(target)
        above = 0 if own is None else sum(score > own for score in mixed.values())
        equal = 0 if own is None else sum(score == own for score in mixed.values())
        rank = above + (equal + 1) / 2
        found.append(1 / rank if own is not None and rank <= 10 else 0.0)
    return found
