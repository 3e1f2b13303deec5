"""How much a model's vectors deserve beside words: measured on the documents themselves, without labels.

From a sample of passages one sentence each is taken out and asked as a query: is the passage it came from found among
the others? Of the weights of the mixture (`fuse.py`) the smallest is taken whose mean reciprocal rank is within one
standard error of the best one's, and halved: such queries are kin to their passages and lack the exact words that
people ask with, so they flatter the vectors. A model that knows nothing gets weight 0.

Shapes: Q queries, P passages of the sample, W weights.
"""

from __future__ import annotations

import random
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from encodery.embed.finishing import Finishing
from encodery.search.encoder import TextEncoder
from encodery.search.engine import Engine
from encodery.search.fuse import by_scores
from encodery.search.store import Point

QUERIES = 300
FEWEST = 30  # Queries below which nothing is measured.
DEPTH = 100
WEIGHTS = tuple(round(0.1 * step, 1) for step in range(11))
FALLBACK = 0.2
HALVED = 0.5
LEAST_WORDS = 6
SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|\n+")


@dataclass(frozen=True)
class Calibration:
    """`weight` of the vectors in 0..1. `curve`: weight -> mean reciprocal rank on `queries` queries, where measured."""

    weight: float
    queries: int = 0
    curve: dict[str, float] | None = None

    def table(self) -> dict[str, Any]:
        """As it is stored."""
        return asdict(self)


def calibrated(
    sample: Sequence[Point], vectors: np.ndarray, encoder: TextEncoder, finishing: Finishing, engine: Engine
) -> Calibration:
    """The weight for an index of which `sample` (P) are passages, with finished `vectors` (P, K).

    Samples that give fewer than thirty queries get the fallback weight.
    """
    asked = _queries(sample)
    if len(asked) < FEWEST:
        return Calibration(FALLBACK, len(asked))
    rest = {place: rest for place, (_, rest) in asked.items()}
    queries = [query for query, _ in asked.values()]
    encoded = finishing.apply(encoder.encode([*queries, *rest.values()], truncate="right").vectors)
    left = vectors.copy()
    left[list(rest)] = encoded[len(queries) :]
    by_vector = encoded[: len(queries)] @ left.T
    ranks = np.zeros((len(queries), len(WEIGHTS)))
    with tempfile.TemporaryDirectory() as folder, engine.create(Path(folder) / "sample", None) as store:
        points = [Point("", i, rest.get(i, point.text), None) for i, point in enumerate(sample)]
        store.upsert(points)
        places = {point.id: str(point.number) for point in points}
        for row, (target, query) in enumerate(zip(rest, queries, strict=True)):
            words = {places[hit.id]: hit.score for hit in store.by_words(query, len(sample))}
            ranks[row] = _ranks(words, by_vector[row], target)
    curve = {str(weight): round(float(mean), 4) for weight, mean in zip(WEIGHTS, ranks.mean(axis=0), strict=True)}
    return Calibration(round(HALVED * WEIGHTS[smallest_good(ranks)], 3), len(queries), curve)


def smallest_good(ranks: np.ndarray) -> int:
    """Of figures (Q, W), the first column that is not worse than the best one by more than a standard error of their
    difference."""
    behind = ranks[:, [int(ranks.mean(axis=0).argmax())]] - ranks
    error = behind.std(axis=0, ddof=1) / len(ranks) ** 0.5
    return int(np.argmax(behind.mean(axis=0) <= error))


def _queries(sample: Sequence[Point]) -> dict[int, tuple[str, str]]:
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


def _ranks(words: dict[str, float], by_vector: np.ndarray, target: int) -> list[float]:
    """For each weight the reciprocal rank of the target among the candidates of both sides, 0 beyond the tenth."""
    count = min(DEPTH, len(by_vector))
    nearest = np.argpartition(-by_vector, count - 1)[:count]
    candidates = {str(place) for place in nearest} | set(sorted(words, key=lambda name: -words[name])[:DEPTH])
    vectors = {name: float(by_vector[int(name)]) for name in candidates}
    found = []
    for weight in WEIGHTS:
        mixed = by_scores(words, vectors, weight)
        own = mixed.get(str(target))
        rank = 0 if own is None else sum(score > own for score in mixed.values()) + 1
        found.append(1 / rank if 0 < rank <= 10 else 0.0)
    return found
