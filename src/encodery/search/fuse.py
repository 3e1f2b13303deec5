"""Fusion of several rankings: reciprocal ranks (Cormack et al. 2009), or a weighted sum of scores (arXiv:2210.11934).

The weighted sum keeps by how much one passage is better than the next, which ranks lose. Both need the scores of all
retrievers for every candidate. Each retriever has a weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from encodery.base.errors import InputError, nearest
from encodery.search.modes import BM25

FusionMethod = Literal["scores", "ranks"]
RANK_OFFSET = 60
"""Added to every rank before it is inverted, as in the paper: it reduces the lead of the first ranks."""


def parse_weights(text: str) -> dict[str, float]:
    """Return mode -> weight of a text such as `bm25=0.3,dense=0.7`. Raises `InputError`."""
    weights: dict[str, float] = {}
    for entry in text.split(","):
        mode, _, value = entry.partition("=")
        mode = mode.strip()
        try:
            number = float(value)
        except ValueError as error:
            raise InputError(
                f"weights = '{text[:80]}': write mode=number pairs, such as bm25=0.3,dense=0.7."
            ) from error
        if mode in weights:
            raise InputError(f"weights = '{text[:80]}': {mode} is given twice.")
        weights[mode] = number
    return weights


def normalised_weights(requested: Mapping[str, float], modes: Sequence[str]) -> dict[str, float]:
    """Return mode -> weight with a sum of 1; modes that are not given get 0.

    Raises `InputError` for an unknown mode, a negative weight, and weights that are all 0.
    """
    unknown = [mode for mode in requested if mode not in modes]
    if unknown:
        hint = nearest(unknown[0], modes)
        raise InputError(f"weight: '{unknown[0]}' is no mode of the index.{hint} It has {', '.join(modes)}.")
    weights = {mode: float(requested.get(mode, 0.0)) for mode in modes}
    total = sum(weights.values())
    if min(weights.values()) < 0 or not 0 < total < float("inf"):
        raise InputError(f"weight = {dict(requested)}: weights must be at least 0, and one of them must be positive.")
    return {mode: value / total for mode, value in weights.items()}


def distribute_weight(modes: Sequence[str], weight: float, proportions: Mapping[str, float]) -> dict[str, float]:
    """Return mode -> weight: `weight` divided over the models in their `proportions` (equally if all are 0), and the
    rest for BM25."""
    own = {mode: proportions.get(mode, 0.0) for mode in modes}
    if not sum(own.values()):
        own = dict.fromkeys(modes, 1.0)
    total = sum(own.values()) or 1.0
    return {BM25: 1 - weight, **{mode: weight * value / total for mode, value in own.items()}}


def reciprocal_rank_fusion(
    rankings: Sequence[Sequence[str]], weights: Sequence[float], offset: int = RANK_OFFSET
) -> dict[str, float]:
    """Return id -> sum over the rankings of weight / (offset + rank). Ranks start at 1; a ranking without the id adds
    nothing."""
    scores: dict[str, float] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        for rank, name in enumerate(ranking, 1):
            scores[name] = scores.get(name, 0.0) + weight / (offset + rank)
    return scores


def min_max_scaled(scores: Mapping[str, float], from_zero: bool) -> dict[str, float]:
    """Return the scores on a scale of 0 to 1 over the candidates.

    Args:
        from_zero: the bottom of the scale is 0, the score of a passage that was not found (as by BM25); else it is the
            lowest score.
    """
    low = 0.0 if from_zero else min(scores.values(), default=0.0)
    span = (max(scores.values(), default=0.0) - low) or 1.0
    return {name: (score - low) / span for name, score in scores.items()}


def weighted_sum(scores: Sequence[Mapping[str, float]], weights: Sequence[float]) -> dict[str, float]:
    """Return id -> sum of weight · score over several tables of scores on one scale; a missing score counts as 0."""
    total: dict[str, float] = {}
    for table, weight in zip(scores, weights, strict=True):
        for name, score in table.items():
            total[name] = total.get(name, 0.0) + weight * score
    return total
