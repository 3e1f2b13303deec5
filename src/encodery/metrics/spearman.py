"""Spearman's rank correlation of two series of numbers, as in scipy; equal numbers get their mean rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from numpy.typing import ArrayLike

from encodery.metrics import InputKind, Metric
from encodery.metrics._correlation import correlation, ranks
from encodery.metrics._items import numbers


@dataclass(frozen=True, kw_only=True)
class Spearman(Metric):
    """Numbers (N,) against numbers (N,), −1 to 1; 0 if either side is constant, or N is 1."""

    input_kind: ClassVar[InputKind] = "numbers"

    def score(self, truth: ArrayLike, predicted: ArrayLike) -> float:
        left, right = numbers(truth, predicted, "spearman")
        return correlation(ranks(left), ranks(right))
