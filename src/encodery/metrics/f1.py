"""F1 of classes, as scikit-learn has it: the harmonic mean of precision and recall."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from numpy.typing import ArrayLike

from encodery.base.extras import require
from encodery.metrics import Metric
from encodery.metrics._items import labels


@dataclass(frozen=True, kw_only=True)
class F1(Metric):
    """Labels (N,) against labels (N,), or 0 and 1 of several labels (N, C) against the same.

    `average`: macro counts every class alike, weighted by its rows, micro every decision alike; binary is the F1 of the
    class `positive` alone. A class that is neither true nor predicted anywhere counts for nothing.
    """

    average: Literal["macro", "micro", "weighted", "binary"] = "macro"
    positive: int | str = 1

    def score(self, truth: ArrayLike, predicted: ArrayLike) -> float:
        left, right = labels(truth, predicted, "f1")
        score = require("sklearn.metrics", "evaluate").f1_score
        if self.average == "binary":
            return float(score(left == self.positive, right == self.positive, zero_division=0.0))
        return float(score(left, right, average=self.average, zero_division=0.0))
