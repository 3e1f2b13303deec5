"""Answer normalisation of SQuAD's official script, for `exact_match` and `answer_f1`.

arXiv:1606.05250, arXiv:1806.03822

The truth of a question is one correct answer or several; [] or "" means that the question has no answer.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence

import numpy as np

from encodery.base.errors import EmptyInput, InputError

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)
CorrectAnswers = Sequence[str | Sequence[str]]


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, without ASCII punctuation and English articles."""
    return ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split()


def best_scores(
    truth: CorrectAnswers, predicted: Sequence[str], metric: str, score: Callable[[list[str], list[str]], float]
) -> np.ndarray:
    """Return the score (N,) of each answer against the correct answer that gives the highest score.

    Args:
        metric: the name of the metric, for messages.
        score: the score of the words of a correct answer and those of a predicted one.

    Raises `InputError`.
    """
    if len(truth) != len(predicted):
        raise InputError(f"{metric}: there are {len(truth)} questions but {len(predicted)} answers.")
    if not len(truth):
        raise EmptyInput(f"{metric}: there are no answers.")
    scores = []
    for correct, answer in zip(truth, predicted, strict=True):
        # As in the official script, correct answers that consist of articles and punctuation only are ignored.
        normalised = [words(one) for one in ([correct] if isinstance(correct, str) else correct)]
        scores.append(max(score(one, words(answer)) for one in [one for one in normalised if one] or [[]]))
    return np.array(scores, np.float64)
