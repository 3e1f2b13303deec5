"""Figures of sets of answers against seqeval; labels, their order and weights."""

from __future__ import annotations

import numpy as np
import pytest

from encodery.finetune.heads.labels import class_weights, count_labels, label_name
from encodery.finetune.heads.set_metrics import micro_f1
from encodery.finetune.heads.word_spans import spans_of


def test_figures_of_spans_are_seqevals() -> None:
    seqeval = pytest.importorskip("seqeval.metrics")
    rng = np.random.default_rng(0)
    tags = ["O", "B-x", "I-x", "B-y", "I-y"]
    truth, predicted = ([rng.choice(tags, 12).tolist() for _ in range(60)] for _ in range(2))
    predicted[:30] = truth[:30]
    metrics = micro_f1([set(spans_of(row)) for row in truth], [set(spans_of(row)) for row in predicted])
    assert metrics["f1"] == pytest.approx(seqeval.f1_score(truth, predicted))
    assert metrics["precision"] == pytest.approx(seqeval.precision_score(truth, predicted))
    assert micro_f1([set()], [set()])["f1"] == 0.0


def test_labels_are_ordered_and_weighed() -> None:
    assert count_labels(["10", "9", "b", "a", "9", "nan"]) == (["9", "10", "a", "b", "nan"], [2, 1, 1, 1, 1])
    assert label_name(1.0, 0) == "1"
    balanced = class_weights([90, 10], "balanced")
    assert balanced[1] / balanced[0] == pytest.approx(9)
    assert (90 * balanced[0] + 10 * balanced[1]) / 100 == pytest.approx(1)
    assert class_weights([90, 10], "none") == [1.0, 1.0]
