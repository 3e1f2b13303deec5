"""Average precision, as in scikit-learn: the precision at each threshold, weighted by the increase in recall.

Differs from `map` in that it is computed over one list of items, without queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from numpy.typing import ArrayLike

from encodery.base.extras import require
from encodery.metrics import InputKind, Metric
from encodery.metrics._items import binary_scores


@dataclass(frozen=True, kw_only=True)
class AveragePrecision(Metric):
    """0 or 1 (N,) against scores (N,) on any scale. Raises `InputError` if all items are of one class."""

    input_kind: ClassVar[InputKind] = "scores"

    def score(self, truth: ArrayLike, predicted: ArrayLike) -> float:
        classes, scores = binary_scores(truth, predicted, "average_precision")
        return float(require("sklearn.metrics", "evaluate").average_precision_score(classes, scores))
