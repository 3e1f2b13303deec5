"""Two rankings made one: reciprocal ranks (Cormack et al. 2009), or a mixture of scores (arXiv 2210.11934).

The mixture keeps how much better one passage is than the next, which ranks throw away; both need the candidates'
scores by words and by vector. `weight` is the share of the vector: 0 is words alone, 1 the vector alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

Method = Literal["scores", "ranks"]
RANK_OFFSET = 60


def by_ranks(
    rankings: Sequence[Sequence[str]], weights: Sequence[float], offset: int = RANK_OFFSET
) -> dict[str, float]:
    """id -> sum over rankings of weight / (offset + rank), rank from 1; an id absent from a ranking gets nothing."""
    scores: dict[str, float] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        for rank, name in enumerate(ranking, 1):
            scores[name] = scores.get(name, 0.0) + weight / (offset + rank)
    return scores


def by_scores(words: Mapping[str, float], vectors: Mapping[str, float], weight: float) -> dict[str, float]:
    """id -> (1 - weight) · words' score + weight · vector's score, each scaled to 0..1 over the candidates.

    A passage without any of the words has the score 0 by words, which is also the bottom of that scale; of vectors
    the bottom is the worst candidate's. `vectors` must hold every id.
    """
    top = max(words.values(), default=0.0) or 1.0
    low, high = min(vectors.values(), default=0.0), max(vectors.values(), default=0.0)
    spread = (high - low) or 1.0
    return {
        name: (1 - weight) * words.get(name, 0.0) / top + weight * (score - low) / spread
        for name, score in vectors.items()
    }
