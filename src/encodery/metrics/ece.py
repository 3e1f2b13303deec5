"""Expected calibration error: how far confidence is from being right, in bins of equal width. arXiv:1706.04599"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from encodery.base.errors import SettingsError
from encodery.metrics import Metric
from encodery.metrics._items import chances


@dataclass(frozen=True, kw_only=True)
class ECE(Metric):
    """Class numbers (N,) against the probability of each class (N, C), or 0 and 1 (N,) against that of 1 (N,).

    The confidence of an item is the probability of its most probable class; `bins`, each without its lower edge and
    with its upper one, are weighted by their items. 0 is perfect.
    """

    higher_is_better: ClassVar[bool] = False
    bins: int = 15

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise SettingsError(f"bins = {self.bins}: must be at least 1.")

    def score(self, truth: ArrayLike, predicted: ArrayLike) -> float:
        classes, given = chances(truth, predicted, "ece")
        confidence, right = given.max(1), given.argmax(1) == classes
        place = np.clip(np.ceil(confidence * self.bins).astype(np.int64) - 1, 0, self.bins - 1)
        apart = np.bincount(place, right - confidence, self.bins)
        return float(np.abs(apart).sum() / len(classes))
