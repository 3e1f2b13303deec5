"""Mean absolute error of numbers, in their unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from encodery.metrics import InputKind, Metric
from encodery.metrics._items import numbers


@dataclass(frozen=True, kw_only=True)
class MAE(Metric):
    """Numbers (N,) against numbers (N,); 0 is perfect."""

    input_kind: ClassVar[InputKind] = "numbers"
    higher_is_better: ClassVar[bool] = False
    best: ClassVar[float] = 0.0

    def score(self, truth: ArrayLike, predicted: ArrayLike) -> float:
        return float(self.per_item(truth, predicted).mean())

    def per_item(self, truth: ArrayLike, predicted: ArrayLike) -> np.ndarray:
        left, right = numbers(truth, predicted, "mae")
        errors: np.ndarray = np.abs(left - right)
        return errors
