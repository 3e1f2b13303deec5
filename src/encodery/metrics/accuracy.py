"""Accuracy: the fraction of items whose prediction is correct."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from encodery.base.errors import EmptyInput, InputError
from encodery.metrics import Metric


@dataclass(frozen=True, kw_only=True)
class Accuracy(Metric):
    """Labels (N,) against labels (N,), of any type that can be compared."""

    def score(self, truth: ArrayLike, predicted: ArrayLike) -> float:
        return float(self.per_item(truth, predicted).mean())

    def per_item(self, truth: ArrayLike, predicted: ArrayLike) -> np.ndarray:
        left, right = np.asarray(truth), np.asarray(predicted)
        if left.shape != right.shape:
            raise InputError(f"accuracy: truth has the shape {left.shape}, but the prediction {right.shape}.")
        if not left.size:
            raise EmptyInput("accuracy: there are no items.")
        same: np.ndarray = (left == right).astype(np.float64)
        return same
