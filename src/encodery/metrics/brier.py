"""Brier score of probabilities: their squared distance from what was so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from encodery.metrics import Metric
from encodery.metrics._items import chances


@dataclass(frozen=True, kw_only=True)
class Brier(Metric):
    """Class numbers (N,) against the probability of each class (N, C), summed over classes, 0 to 2; or 0 and 1 (N,)
    against the probability of 1 (N,), 0 to 1. Both as scikit-learn has them."""

    higher_is_better: ClassVar[bool] = False

    def score(self, truth: ArrayLike, predicted: ArrayLike) -> float:
        return float(self.per_item(truth, predicted).mean())

    def per_item(self, truth: ArrayLike, predicted: ArrayLike) -> np.ndarray:
        classes, given = chances(truth, predicted, "brier")
        apart = (given - np.eye(given.shape[1])[classes]) ** 2
        found: np.ndarray = apart[:, 1] if np.ndim(predicted) == 1 else apart.sum(1)
        return found
