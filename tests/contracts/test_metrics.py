"""Contract of the metrics: the tests run over all parts in the folder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from encodery.base.errors import InputError
from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode, encode
from encodery.metrics import Metric

QRELS = {"q1": {"a": 1, "b": 0}, "q2": {"c": 2, "d": 1}}
PERFECT_RUN = {"q1": {"a": 9.0, "b": 1.0}, "q2": {"c": 5.0, "d": 4.0}}
WORSE_RUN = {"q1": {"b": 9.0, "z": 2.0, "a": 1.0}, "q2": {"z": 5.0, "d": 4.0}}
LABELS = np.array([0, 1, 2, 1])
BINARY = np.array([0, 1, 0, 1])
NUMBERS = np.array([0.0, 1.0, 2.0, 4.0])
TAGS = [["B-X", "I-X", "B-Y"], ["O", "S-Y"]]
ANSWERS = [["the red house", "house"], []]
# part -> (truth, a perfect prediction, a worse one, the perfect score)
EXAMPLES: dict[str, tuple[Any, Any, Any, float]] = {
    "ndcg": (QRELS, PERFECT_RUN, WORSE_RUN, 1.0),
    "map": (QRELS, PERFECT_RUN, WORSE_RUN, 1.0),
    "mrr": (QRELS, PERFECT_RUN, WORSE_RUN, 1.0),
    "recall": (QRELS, PERFECT_RUN, WORSE_RUN, 1.0),
    "accuracy": (LABELS, LABELS, np.array([0, 1, 0, 0]), 1.0),
    "perplexity": (LABELS, np.zeros(4), np.log([0.5, 0.5, 0.25, 1.0]), 1.0),
    "balanced_accuracy": (LABELS, LABELS, np.array([0, 1, 0, 0]), 1.0),
    "f1": (LABELS, LABELS, np.array([0, 1, 0, 0]), 1.0),
    "precision": (LABELS, LABELS, np.array([0, 1, 0, 0]), 1.0),
    "mcc": (LABELS, LABELS, np.array([0, 1, 0, 0]), 1.0),
    "v_measure": (LABELS, np.array([7, 3, 4, 3]), np.array([0, 1, 0, 0]), 1.0),
    "pearson": (NUMBERS, 2 * NUMBERS + 1, np.array([1.0, 0.0, 3.0, 2.0]), 1.0),
    "spearman": (NUMBERS, np.exp(NUMBERS), np.array([1.0, 0.0, 3.0, 2.0]), 1.0),
    "mse": (NUMBERS, NUMBERS, NUMBERS + 0.5, 0.0),
    "mae": (NUMBERS, NUMBERS, NUMBERS + 0.5, 0.0),
    "auc": (BINARY, np.array([0.1, 5.0, 0.2, 3.0]), np.array([0.1, 0.05, 0.2, 3.0]), 1.0),
    "average_precision": (BINARY, np.array([0.1, 5.0, 0.2, 3.0]), np.array([0.1, 0.05, 0.2, 3.0]), 1.0),
    "brier": (LABELS, np.eye(3)[LABELS], np.full((4, 3), 1 / 3), 0.0),
    "ece": (LABELS, np.eye(3)[LABELS], np.eye(3)[[0, 0, 0, 0]], 0.0),
    "span_f1": (TAGS, TAGS, [["B-X", "O", "B-Y"], ["O", "O"]], 1.0),
    "exact_match": (ANSWERS, ["a Red house!", ""], ["red", "no"], 1.0),
    "answer_f1": (ANSWERS, ["a Red house!", ""], ["red", "no"], 1.0),
}


def metric(name: str) -> Metric:
    return find_part(Metric, name)()


@pytest.mark.parametrize("name", part_names(Metric))
def test_a_perfect_prediction_has_the_best_score_and_a_worse_one_a_worse_score(name: str) -> None:
    truth, perfect, worse, best = EXAMPLES[name]
    part = metric(name)
    assert part.score(truth, perfect) == pytest.approx(best)
    if part.higher_is_better:
        assert part.score(truth, worse) < best
    else:
        assert part.score(truth, worse) > best


@pytest.mark.parametrize("name", part_names(Metric))
def test_the_mean_over_items_is_the_score(name: str) -> None:
    truth, _, worse, _ = EXAMPLES[name]
    part = metric(name)
    values = part.per_item(truth, worse)
    assert values is None or values.mean() == pytest.approx(part.score(truth, worse))


@pytest.mark.parametrize("name", part_names(Metric))
def test_empty_input_is_refused_and_settings_round_trip(name: str) -> None:
    truth, perfect, _, _ = EXAMPLES[name]
    empty = type(truth)() if isinstance(truth, dict) else truth[:0]
    part = metric(name)
    with pytest.raises(InputError):
        part.score(empty, type(perfect)() if isinstance(perfect, dict) else perfect[:0])
    assert decode(Metric, encode(part)) == part
