"""Matthews' correlation of classes, as scikit-learn has it: 1 is perfect, 0 no better than guessing by frequency."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from encodery.base.errors import InputError
from encodery.metrics import Metric
from encodery.metrics._counts import counted


@dataclass(frozen=True, kw_only=True)
class MCC(Metric):
    """Labels (N,) against labels (N,); 0 where either side has one class only."""

    def score(self, truth: ArrayLike, predicted: ArrayLike) -> float:
        shape = np.shape(truth)
        if len(shape) > 1:
            raise InputError(f"mcc: is of one label for each item, not of shape {shape}.")
        hits, true, given = (some.astype(np.float64) for some in counted(truth, predicted, "mcc"))
        rows = true.sum()
        below = (rows**2 - given @ given) * (rows**2 - true @ true)
        return float((hits.sum() * rows - true @ given) / np.sqrt(below)) if below > 0 else 0.0
