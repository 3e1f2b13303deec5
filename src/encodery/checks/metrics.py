"""Checks of metrics, each on an example of the metric's kind of input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from encodery.base.errors import InputError
from encodery.base.settings import decode, encode
from encodery.metrics import InputKind, Metric

LABELS = np.array([0, 1, 2, 1])
NUMBERS = np.array([0.0, 1.0, 2.0, 4.0])
QRELS = {"q1": {"a": 1, "b": 0}, "q2": {"c": 2, "d": 1}}
TAGS = [["B-X", "I-X", "B-Y"], ["O", "S-Y"]]


@dataclass(frozen=True, eq=False)
class MetricExample:
    """Truth, a perfect prediction and a worse one."""

    truth: Any
    perfect: Any
    worse: Any


EXAMPLES: dict[InputKind, MetricExample] = {
    "classes": MetricExample(LABELS, LABELS, np.array([0, 1, 0, 0])),
    "probabilities": MetricExample(LABELS, np.eye(3)[LABELS], np.array([[0.6, 0.3, 0.1]] * 4)),
    "numbers": MetricExample(NUMBERS, NUMBERS, np.array([1.0, 0.0, 3.0, 2.0])),
    "scores": MetricExample(np.array([0, 1, 0, 1]), np.array([0.1, 5.0, 0.2, 3.0]), np.array([0.1, 0.05, 0.2, 3.0])),
    "rankings": MetricExample(
        QRELS,
        {"q1": {"a": 9.0, "b": 1.0}, "q2": {"c": 5.0, "d": 4.0}},
        {"q1": {"b": 9.0, "z": 2.0, "a": 1.0}, "q2": {"z": 5.0, "d": 4.0}},
    ),
    "tags": MetricExample(TAGS, TAGS, [["B-X", "O", "B-Y"], ["O", "O"]]),
    "answers": MetricExample([["the red house", "house"], []], ["a Red house!", ""], ["red", "no"]),
    "log_probabilities": MetricExample(LABELS, np.zeros(4), np.log([0.5, 0.5, 0.25, 1.0])),
}


def check_settings_round_trip(part: Metric) -> None:
    """The part is what its settings decode to."""
    assert decode(Metric, encode(part)) == part


def check_a_perfect_prediction_has_the_best_score(part: Metric) -> None:
    """A perfect prediction has the best score, and a worse one a worse score."""
    example = EXAMPLES[part.input_kind]
    assert math.isclose(part.score(example.truth, example.perfect), part.best, abs_tol=1e-9)
    worse = part.score(example.truth, example.worse)
    assert worse < part.best if part.higher_is_better else worse > part.best


def check_the_mean_over_items_is_the_score(part: Metric) -> None:
    """If the metric has a value per item, their mean is the score."""
    example = EXAMPLES[part.input_kind]
    values = part.per_item(example.truth, example.worse)
    assert values is None or math.isclose(values.mean(), part.score(example.truth, example.worse), abs_tol=1e-9)


def check_empty_input_is_refused(part: Metric) -> None:
    """Empty input raises `InputError`."""
    example = EXAMPLES[part.input_kind]
    truth, predicted = (type(one)() if isinstance(one, dict) else one[:0] for one in (example.truth, example.perfect))
    try:
        part.score(truth, predicted)
    except InputError:
        return
    raise AssertionError("score accepts empty input")
