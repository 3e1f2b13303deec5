"""What the metrics of answers share: the normalisation of SQuAD's official script. arXiv:1606.05250, arXiv:1806.03822

Truth is several right answers for each question, or one, or none ([] or "": the question has no answer).
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence

import numpy as np

from encodery.base.errors import EmptyInput, InputError

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)
Right = Sequence[str | Sequence[str]]


def words(text: str) -> list[str]:
    """Lower case, without ASCII punctuation and English articles, parted at blanks."""
    return ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split()


def best(
    truth: Right, predicted: Sequence[str], what: str, score: Callable[[list[str], list[str]], float]
) -> np.ndarray:
    """(N,) the score of each answer against that right one which it is closest to. Raises `InputError`."""
    if len(truth) != len(predicted):
        raise InputError(f"{what}: there are {len(truth)} questions, and {len(predicted)} answers.")
    if not len(truth):
        raise EmptyInput(f"{what}: there are no answers to measure.")
    found = []
    for right, given in zip(truth, predicted, strict=True):
        # As the script has it: right answers of nothing but articles and punctuation are put aside.
        several = [words(one) for one in ([right] if isinstance(right, str) else right)]
        found.append(max(score(one, words(given)) for one in [one for one in several if one] or [[]]))
    return np.array(found, np.float64)
