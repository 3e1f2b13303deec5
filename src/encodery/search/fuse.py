"""Rankings made one: reciprocal ranks (Cormack et al. 2009), or a mixture of scores (arXiv 2210.11934).

The mixture keeps how much better one passage is than the next, which ranks throw away; both need the candidates'
scores on every side: by words, and by whatever a model gives. Each side has a weight, its share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from encodery.base.errors import InputError

FusionMethod = Literal["scores", "ranks"]
RANK_OFFSET = 60


def parse_weights(written: str) -> dict[str, float]:
    """side -> share, as people write it: `bm25=0.3, dense=0.7`. Raises `InputError`."""
    found: dict[str, float] = {}
    for entry in written.split(","):
        side, _, share = entry.partition("=")
        name = side.strip()
        try:
            number = float(share)
        except ValueError as error:
            raise InputError(f"weights = '{written[:80]}': are written as bm25=0.3,dense=0.7.") from error
        if name in found:
            raise InputError(f"weights = '{written[:80]}': {name} is given twice.")
        found[name] = number
    return found


def reciprocal_rank_fusion(
    rankings: Sequence[Sequence[str]], weights: Sequence[float], offset: int = RANK_OFFSET
) -> dict[str, float]:
    """id -> sum over rankings of weight / (offset + rank), rank from 1; an id absent from a ranking gets nothing."""
    scores: dict[str, float] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        for rank, name in enumerate(ranking, 1):
            scores[name] = scores.get(name, 0.0) + weight / (offset + rank)
    return scores


def min_max_scaled(scores: Mapping[str, float], from_zero: bool) -> dict[str, float]:
    """The same scores on a scale of 0..1 over the candidates.

    `from_zero`: a passage that is not found has the score 0, as by words, which is then the bottom of the scale; else
    the bottom is the worst candidate's.
    """
    low = 0.0 if from_zero else min(scores.values(), default=0.0)
    spread = (max(scores.values(), default=0.0) - low) or 1.0
    return {name: (score - low) / spread for name, score in scores.items()}


def weighted_sum(scores: Sequence[Mapping[str, float]], weights: Sequence[float]) -> dict[str, float]:
    """id -> sum over sides of weight · score, the scores brought to one scale before; absent ones count as 0."""
    found: dict[str, float] = {}
    for side, weight in zip(scores, weights, strict=True):
        for name, score in side.items():
            found[name] = found.get(name, 0.0) + weight * score
    return found
