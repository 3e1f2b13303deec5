"""Precision of classes, as scikit-learn has it: of what was said to be of a class, the share that is."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import ArrayLike

from encodery.metrics import Metric
from encodery.metrics._counts import Average, averaged, counted, of_one


@dataclass(frozen=True, kw_only=True)
class Precision(Metric):
    """Labels (N,) against labels (N,), or 0 and 1 of several labels (N, C) against the same.

    `average`: as in `f1`. A class that is true somewhere and never predicted counts as 0.
    """

    average: Average = "macro"
    positive: int | str = 1

    def score(self, truth: ArrayLike, predicted: ArrayLike) -> float:
        if self.average == "binary":
            found = of_one(truth, predicted, self.positive, "precision")
        else:
            found = counted(truth, predicted, "precision")
        return averaged(found.hits, found.predicted, found.true, self.average)
