"""Exact match: the fraction of answers equal to one of the correct answers, as in SQuAD's script. arXiv:1606.05250"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from encodery.metrics import InputKind, Metric
from encodery.metrics._answers import CorrectAnswers, best_scores


@dataclass(frozen=True, kw_only=True)
class ExactMatch(Metric):
    """N correct answers, each a text or a list of texts ([]: no answer), against N predicted answers ("": no answer).

    Case, ASCII punctuation, English articles and whitespace are ignored.
    """

    input_kind: ClassVar[InputKind] = "answers"

    def score(self, truth: CorrectAnswers, predicted: Sequence[str]) -> float:
        return float(self.per_item(truth, predicted).mean())

    def per_item(self, truth: CorrectAnswers, predicted: Sequence[str]) -> np.ndarray:
        return best_scores(truth, predicted, "exact_match", lambda correct, answer: float(correct == answer))
