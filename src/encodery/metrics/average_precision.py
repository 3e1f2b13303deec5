"""Average precision of scored items, as scikit-learn has it: precision at each recall, weighted by the step in recall.

Differs from `map` in that it looks at one list of items, and has no queries.
"""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import ArrayLike

from encodery.base.extras import require
from encodery.metrics import Metric
from encodery.metrics._items import two_sided


@dataclass(frozen=True, kw_only=True)
class AveragePrecision(Metric):
    """0 or 1 (N,) against scores (N,) of any scale. Raises `InputError` where all items are the same."""

    def score(self, truth: ArrayLike, predicted: ArrayLike) -> float:
        known, given = two_sided(truth, predicted, "average_precision")
        return float(require("sklearn.metrics", "evaluate").average_precision_score(known, given))
