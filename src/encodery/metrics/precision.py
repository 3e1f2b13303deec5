"""Precision of classes, as scikit-learn has it: of what was said to be of a class, the share that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from numpy.typing import ArrayLike

from encodery.base.extras import require
from encodery.metrics import Metric
from encodery.metrics._items import labels


@dataclass(frozen=True, kw_only=True)
class Precision(Metric):
    """Labels (N,) against labels (N,), or 0 and 1 of several labels (N, C) against the same.

    `average`: as in `f1`. A class that is true somewhere and never predicted counts as 0.
    """

    average: Literal["macro", "micro", "weighted", "binary"] = "macro"
    positive: int | str = 1

    def score(self, truth: ArrayLike, predicted: ArrayLike) -> float:
        left, right = labels(truth, predicted, "precision")
        score = require("sklearn.metrics", "evaluate").precision_score
        if self.average == "binary":
            return float(score(left == self.positive, right == self.positive, zero_division=0.0))
        return float(score(left, right, average=self.average, zero_division=0.0))
