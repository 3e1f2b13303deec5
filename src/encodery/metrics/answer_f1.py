"""How many words an answer shares with the right one, as SQuAD's script has it. arXiv:1606.05250, arXiv:1806.03822"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from encodery.metrics import Metric
from encodery.metrics._answers import Right, best


@dataclass(frozen=True, kw_only=True)
class AnswerF1(Metric):
    """N times a right answer, or a list of them ([]: there is none), against N answers ("": none is given).

    F1 of the words, against the closest right answer; where one side has no words, 1 if the other has none either.
    """

    def score(self, truth: Right, predicted: Sequence[str]) -> float:
        return float(self.per_item(truth, predicted).mean())

    def per_item(self, truth: Right, predicted: Sequence[str]) -> np.ndarray:
        return best(truth, predicted, "answer_f1", _overlap)


def _overlap(right: list[str], given: list[str]) -> float:
    if not right or not given:
        return float(right == given)
    shared = sum((Counter(right) & Counter(given)).values())
    return 2 * shared / (len(right) + len(given))
