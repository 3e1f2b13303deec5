"""Brier score of probabilities: the squared distance from the true class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from encodery.metrics import InputKind, Metric
from encodery.metrics._items import class_probabilities


@dataclass(frozen=True, kw_only=True)
class Brier(Metric):
    """Class numbers (N,) against the probability of each class (N, C): summed over classes, 0 to 2. Or 0 and 1 (N,)
    against the probability of 1 (N,): 0 to 1. Both as in scikit-learn."""

    input_kind: ClassVar[InputKind] = "probabilities"
    higher_is_better: ClassVar[bool] = False
    best: ClassVar[float] = 0.0

    def score(self, truth: ArrayLike, predicted: ArrayLike) -> float:
        return float(self.per_item(truth, predicted).mean())

    def per_item(self, truth: ArrayLike, predicted: ArrayLike) -> np.ndarray:
        classes, probabilities = class_probabilities(truth, predicted, "brier")
        squared = (probabilities - np.eye(probabilities.shape[1])[classes]) ** 2
        values: np.ndarray = squared[:, 1] if np.ndim(predicted) == 1 else squared.sum(1)
        return values
