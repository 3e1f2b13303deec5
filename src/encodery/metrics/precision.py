"""Precision of classes, as in scikit-learn: the fraction of the items predicted as a class that are of it."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import ArrayLike

from encodery.metrics import Metric
from encodery.metrics._counts import Average, average_ratio, count_class, count_classes


@dataclass(frozen=True, kw_only=True)
class Precision(Metric):
    """Labels (N,) against labels (N,), or multi-label indicators of 0 and 1 (N, C) against the same.

    `average`: as in `f1`. A class that is true for some item and never predicted has the value 0.
    """

    average: Average = "macro"
    positive: int | str = 1

    def score(self, truth: ArrayLike, predicted: ArrayLike) -> float:
        if self.average == "binary":
            counts = count_class(truth, predicted, self.positive, "precision")
        else:
            counts = count_classes(truth, predicted, "precision")
        return average_ratio(counts.hits, counts.predicted, counts.true, self.average)
