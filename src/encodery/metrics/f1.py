"""F1 of classes, as in scikit-learn: the harmonic mean of precision and recall."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import ArrayLike

from encodery.metrics import Metric
from encodery.metrics._counts import Average, average_ratio, count_class, count_classes


@dataclass(frozen=True, kw_only=True)
class F1(Metric):
    """Labels (N,) against labels (N,), or multi-label indicators of 0 and 1 (N, C) against the same.

    `average`: "macro" gives every class the same weight, "weighted" weights it by its number of items, "micro" gives
    every decision the same weight, and "binary" is the F1 of the class `positive`. A class that is neither true nor
    predicted for any item has the value 0.
    """

    average: Average = "macro"
    positive: int | str = 1

    def score(self, truth: ArrayLike, predicted: ArrayLike) -> float:
        if self.average == "binary":
            counts = count_class(truth, predicted, self.positive, "f1")
        else:
            counts = count_classes(truth, predicted, "f1")
        return average_ratio(2 * counts.hits, counts.true + counts.predicted, counts.true, self.average)
