"""F1 of classes, as scikit-learn has it: the harmonic mean of precision and recall."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import ArrayLike

from encodery.metrics import Metric
from encodery.metrics._counts import Average, averaged, counted, of_one


@dataclass(frozen=True, kw_only=True)
class F1(Metric):
    """Labels (N,) against labels (N,), or 0 and 1 of several labels (N, C) against the same.

    `average`: macro counts every class alike, weighted by its rows, micro every decision alike; binary is the F1 of the
    class `positive` alone. A class that is neither true nor predicted anywhere counts for nothing.
    """

    average: Average = "macro"
    positive: int | str = 1

    def score(self, truth: ArrayLike, predicted: ArrayLike) -> float:
        if self.average == "binary":
            found = of_one(truth, predicted, self.positive, "f1")
        else:
            found = counted(truth, predicted, "f1")
        return averaged(2 * found.hits, found.true + found.predicted, found.true, self.average)
