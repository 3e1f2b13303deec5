"""Recall at k: the fraction of the relevant documents among the first k."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from encodery.metrics import InputKind, Metric
from encodery.metrics._ranking import Judgements, Run, ranked


@dataclass(frozen=True, kw_only=True)
class Recall(Metric):
    """The number of relevant documents among the first `k`, divided by the number of all relevant documents."""

    input_kind: ClassVar[InputKind] = "rankings"
    k: int = 100

    def score(self, truth: Judgements, predicted: Run) -> float:
        return float(self.per_item(truth, predicted).mean())

    def per_item(self, truth: Judgements, predicted: Run) -> np.ndarray:
        return np.array([(grades > 0).sum() / ideal.size for grades, ideal in ranked(truth, predicted, self.k)])
