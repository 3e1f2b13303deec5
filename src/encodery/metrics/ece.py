"""Expected calibration error: the distance of confidence from accuracy, in bins of equal width. arXiv:1706.04599"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from encodery.base.settings import check_at_least
from encodery.metrics import InputKind, Metric
from encodery.metrics._items import class_probabilities


@dataclass(frozen=True, kw_only=True)
class ECE(Metric):
    """Class numbers (N,) against the probability of each class (N, C), or 0 and 1 (N,) against that of 1 (N,).

    The confidence of an item is the probability of its most probable class. Each of the `bins` includes its upper edge
    but not its lower one, and is weighted by its number of items. 0 is perfect.
    """

    input_kind: ClassVar[InputKind] = "probabilities"
    higher_is_better: ClassVar[bool] = False
    best: ClassVar[float] = 0.0
    bins: int = 15

    def __post_init__(self) -> None:
        check_at_least(self, 1, "bins")

    def score(self, truth: ArrayLike, predicted: ArrayLike) -> float:
        classes, probabilities = class_probabilities(truth, predicted, "ece")
        confidence, correct = probabilities.max(1), probabilities.argmax(1) == classes
        bins = np.clip(np.ceil(confidence * self.bins).astype(np.int64) - 1, 0, self.bins - 1)
        differences = np.bincount(bins, correct - confidence, self.bins)
        return float(np.abs(differences).sum() / len(classes))
