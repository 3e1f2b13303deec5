"""Correlation of the ranks of two series of numbers, equal ones sharing their mean rank, as scipy has it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from encodery.base.extras import require
from encodery.metrics import Metric
from encodery.metrics._items import numbers


@dataclass(frozen=True, kw_only=True)
class Spearman(Metric):
    """Numbers (N,) against numbers (N,), −1 to 1; 0 where either side does not vary, or N is 1."""

    def score(self, truth: ArrayLike, predicted: ArrayLike) -> float:
        left, right = numbers(truth, predicted, "spearman")
        if not np.ptp(left) or not np.ptp(right):
            return 0.0
        return float(require("scipy.stats", "evaluate").spearmanr(left, right).statistic)
