"""Normalised discounted cumulative gain at k, with linear gain, as in trec_eval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from encodery.metrics import InputKind, Metric
from encodery.metrics._ranking import Judgements, Run, ranked


@dataclass(frozen=True, kw_only=True)
class NDCG(Metric):
    """The gain of the first `k` documents, discounted by log2(rank + 1), divided by the gain of the ideal order."""

    input_kind: ClassVar[InputKind] = "rankings"
    k: int = 10

    def score(self, truth: Judgements, predicted: Run) -> float:
        return float(self.per_item(truth, predicted).mean())

    def per_item(self, truth: Judgements, predicted: Run) -> np.ndarray:
        discount = 1 / np.log2(np.arange(2, self.k + 2))
        values = [
            (grades @ discount[: grades.size]) / (ideal[: self.k] @ discount[: ideal.size])
            for grades, ideal in ranked(truth, predicted, self.k)
        ]
        return np.array(values)
