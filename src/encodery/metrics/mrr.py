"""Mean reciprocal rank of the first relevant document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from encodery.metrics import InputKind, Metric
from encodery.metrics._ranking import Judgements, Run, ranked


@dataclass(frozen=True, kw_only=True)
class MRR(Metric):
    """1 / rank of the first relevant document, or 0 if none is among the first `k`."""

    input_kind: ClassVar[InputKind] = "rankings"
    k: int = 10

    def score(self, truth: Judgements, predicted: Run) -> float:
        return float(self.per_item(truth, predicted).mean())

    def per_item(self, truth: Judgements, predicted: Run) -> np.ndarray:
        ranks = [np.flatnonzero(grades > 0) for grades, _ in ranked(truth, predicted, self.k)]
        return np.array([1 / (rank[0] + 1) if rank.size else 0.0 for rank in ranks])
