"""Word overlap of an answer with the correct one, as in SQuAD's script. arXiv:1606.05250, arXiv:1806.03822"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from encodery.metrics import InputKind, Metric
from encodery.metrics._answers import CorrectAnswers, best_scores


@dataclass(frozen=True, kw_only=True)
class AnswerF1(Metric):
    """N correct answers, each a text or a list of texts ([]: no answer), against N predicted answers ("": no answer).

    F1 of the words, against the correct answer that gives the highest value. If one side has no words, the value is 1
    if the other has none either, and 0 otherwise.
    """

    input_kind: ClassVar[InputKind] = "answers"

    def score(self, truth: CorrectAnswers, predicted: Sequence[str]) -> float:
        return float(self.per_item(truth, predicted).mean())

    def per_item(self, truth: CorrectAnswers, predicted: Sequence[str]) -> np.ndarray:
        return best_scores(truth, predicted, "answer_f1", _overlap)


def _overlap(correct: list[str], answer: list[str]) -> float:
    if not correct or not answer:
        return float(correct == answer)
    common = sum((Counter(correct) & Counter(answer)).values())
    return 2 * common / (len(correct) + len(answer))
