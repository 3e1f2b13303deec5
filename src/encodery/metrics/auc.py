"""Area under the ROC curve, as scikit-learn has it: the chance that a 1 is scored above a 0."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import ArrayLike

from encodery.base.extras import require
from encodery.metrics import Metric
from encodery.metrics._items import two_sided


@dataclass(frozen=True, kw_only=True)
class AUC(Metric):
    """0 or 1 (N,) against scores (N,) of any scale. Raises `InputError` where all items are the same."""

    def score(self, truth: ArrayLike, predicted: ArrayLike) -> float:
        known, given = two_sided(truth, predicted, "auc")
        return float(require("sklearn.metrics", "evaluate").roc_auc_score(known, given))
