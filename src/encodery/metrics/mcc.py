"""Matthews' correlation of classes, as scikit-learn has it: 1 is perfect, 0 no better than guessing by frequency."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import ArrayLike

from encodery.base.errors import InputError
from encodery.base.extras import require
from encodery.metrics import Metric
from encodery.metrics._items import labels


@dataclass(frozen=True, kw_only=True)
class MCC(Metric):
    """Labels (N,) against labels (N,); 0 where either side has one class only."""

    def score(self, truth: ArrayLike, predicted: ArrayLike) -> float:
        left, right = labels(truth, predicted, "mcc")
        if left.ndim != 1:
            raise InputError(f"mcc: is of one label for each item, not of shape {left.shape}.")
        if len({*left.tolist(), *right.tolist()}) == 1:  # scikit-learn warns here, and says 0 too.
            return 0.0
        return float(require("sklearn.metrics", "evaluate").matthews_corrcoef(left, right))
