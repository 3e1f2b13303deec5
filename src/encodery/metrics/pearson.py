"""Pearson's linear correlation of two series of numbers, as in scipy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from numpy.typing import ArrayLike

from encodery.metrics import InputKind, Metric
from encodery.metrics._correlation import correlation
from encodery.metrics._items import numbers


@dataclass(frozen=True, kw_only=True)
class Pearson(Metric):
    """Numbers (N,) against numbers (N,), −1 to 1; 0 if either side is constant, or N is 1."""

    input_kind: ClassVar[InputKind] = "numbers"

    def score(self, truth: ArrayLike, predicted: ArrayLike) -> float:
        left, right = numbers(truth, predicted, "pearson")
        return correlation(left, right)
