"""Accuracy with every class counted alike: the mean of the classes' recalls, as scikit-learn has it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from encodery.base.errors import InputError
from encodery.metrics import Metric
from encodery.metrics._items import labels


@dataclass(frozen=True, kw_only=True)
class BalancedAccuracy(Metric):
    """Labels (N,) against labels (N,). Classes that are predicted and never true have no recall and are left out."""

    def score(self, truth: ArrayLike, predicted: ArrayLike) -> float:
        left, right = labels(truth, predicted, "balanced_accuracy")
        if left.ndim != 1:
            raise InputError(f"balanced_accuracy: is of one label for each item, not of shape {left.shape}.")
        _, place, rows = np.unique(left, return_inverse=True, return_counts=True)
        return float(np.mean(np.bincount(place, left == right) / rows))
