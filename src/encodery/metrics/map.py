"""Mean average precision of rankings, as in trec_eval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from encodery.metrics import InputKind, Metric
from encodery.metrics._ranking import Judgements, Run, ranked


@dataclass(frozen=True, kw_only=True)
class MAP(Metric):
    """The mean over all relevant documents of the precision at each one's rank; 0 for those not in the first `k`."""

    input_kind: ClassVar[InputKind] = "rankings"
    k: int = 1000

    def score(self, truth: Judgements, predicted: Run) -> float:
        return float(self.per_item(truth, predicted).mean())

    def per_item(self, truth: Judgements, predicted: Run) -> np.ndarray:
        values = []
        for grades, ideal in ranked(truth, predicted, self.k):
            hit = grades > 0
            precision = np.cumsum(hit) / np.arange(1, hit.size + 1)
            values.append(float(precision[hit].sum()) / ideal.size)
        return np.array(values)
