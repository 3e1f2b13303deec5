"""Share of answers that are, word by word, one of the right ones, as SQuAD's script has it. arXiv:1606.05250"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from encodery.metrics import Metric
from encodery.metrics._answers import Right, best


@dataclass(frozen=True, kw_only=True)
class ExactMatch(Metric):
    """N times a right answer, or a list of them ([]: there is none), against N answers ("": none is given).

    Case, ASCII punctuation, English articles and blanks do not count.
    """

    def score(self, truth: Right, predicted: Sequence[str]) -> float:
        return float(self.per_item(truth, predicted).mean())

    def per_item(self, truth: Right, predicted: Sequence[str]) -> np.ndarray:
        return best(truth, predicted, "exact_match", lambda right, given: float(right == given))
