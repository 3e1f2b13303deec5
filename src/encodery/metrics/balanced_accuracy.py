"""Balanced accuracy, as in scikit-learn: the mean of the recall of each class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from encodery.base.errors import InputError
from encodery.metrics import Metric
from encodery.metrics._items import labels


@dataclass(frozen=True, kw_only=True)
class BalancedAccuracy(Metric):
    """Labels (N,) against labels (N,). Classes that are predicted but never true have no recall and are omitted."""

    def score(self, truth: ArrayLike, predicted: ArrayLike) -> float:
        left, right = labels(truth, predicted, "balanced_accuracy")
        if left.ndim != 1:
            raise InputError(f"balanced_accuracy: one label per item is needed, not the shape {left.shape}.")
        _, classes, counts = np.unique(left, return_inverse=True, return_counts=True)
        return float(np.mean(np.bincount(classes, left == right) / counts))
