"""Spearman's rank correlation of two series of numbers, as in scipy; equal numbers get their mean rank."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import ArrayLike

from encodery.metrics import Metric
from encodery.metrics._correlation import correlation, ranks
from encodery.metrics._items import numbers


@dataclass(frozen=True, kw_only=True)
class Spearman(Metric):
    """Numbers (N,) against numbers (N,), −1 to 1; 0 if either side is constant, or N is 1."""

    def score(self, truth: ArrayLike, predicted: ArrayLike) -> float:
        left, right = numbers(truth, predicted, "spearman")
        return correlation(ranks(left), ranks(right))
