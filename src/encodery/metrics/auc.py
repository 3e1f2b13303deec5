"""Area under the ROC curve, as in scikit-learn: the probability that an item of 1 gets a higher score than one of 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from numpy.typing import ArrayLike

from encodery.base.extras import require
from encodery.metrics import InputKind, Metric
from encodery.metrics._items import binary_scores


@dataclass(frozen=True, kw_only=True)
class AUC(Metric):
    """0 or 1 (N,) against scores (N,) on any scale. Raises `InputError` if all items are of one class."""

    input_kind: ClassVar[InputKind] = "scores"

    def score(self, truth: ArrayLike, predicted: ArrayLike) -> float:
        classes, scores = binary_scores(truth, predicted, "auc")
        return float(require("sklearn.metrics", "evaluate").roc_auc_score(classes, scores))
