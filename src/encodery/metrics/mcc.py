"""Matthews' correlation of classes, as in scikit-learn: 1 is perfect, 0 no better than guessing by class frequency."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from encodery.base.errors import InputError
from encodery.metrics import Metric
from encodery.metrics._counts import count_classes


@dataclass(frozen=True, kw_only=True)
class MCC(Metric):
    """Labels (N,) against labels (N,); 0 if either side has one class only."""

    def score(self, truth: ArrayLike, predicted: ArrayLike) -> float:
        shape = np.shape(truth)
        if len(shape) > 1:
            raise InputError(f"mcc: one label per item is needed, not the shape {shape}.")
        hits, true, guessed = (count.astype(np.float64) for count in count_classes(truth, predicted, "mcc"))
        total = true.sum()
        squared = (total**2 - guessed @ guessed) * (total**2 - true @ true)
        return float((hits.sum() * total - true @ guessed) / np.sqrt(squared)) if squared > 0 else 0.0
