"""The figures of tasks against scikit-learn, scipy and seqeval."""

from __future__ import annotations

import numpy as np
import pytest

from encodery.finetune.tasks._figures import accuracy, macro_f1, matthews, micro_f1, pearson, spearman
from encodery.finetune.tasks._labels import count, name_of_label, weights
from encodery.finetune.tasks._units import spans_of


def test_figures_of_classes_are_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    truth, given = (rng.choice(list("abcd"), 200, p=[0.7, 0.2, 0.09, 0.01]).tolist() for _ in range(2))
    given[:100] = truth[:100]
    assert accuracy(truth, given) == metrics.accuracy_score(truth, given)
    assert macro_f1(truth, given) == pytest.approx(metrics.f1_score(truth, given, average="macro"))
    assert matthews(truth, given) == pytest.approx(metrics.matthews_corrcoef(truth, given))
    assert matthews(truth, ["a"] * 200) == 0.0


def test_correlations_are_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 6, 100).tolist(), rng.normal(size=100).tolist()
    assert spearman(one, other) == pytest.approx(stats.spearmanr(one, other).statistic)
    assert pearson(one, other) == pytest.approx(stats.pearsonr(one, other).statistic)
    assert spearman(one, [1.0] * 100) == 0.0


def test_figures_of_spans_are_seqevals() -> None:
    seqeval = pytest.importorskip("seqeval.metrics")
    rng = np.random.default_rng(0)
    tags = ["O", "B-x", "I-x", "B-y", "I-y"]
    truth, given = ([rng.choice(tags, 12).tolist() for _ in range(60)] for _ in range(2))
    given[:30] = truth[:30]
    found = micro_f1([set(spans_of(row)) for row in truth], [set(spans_of(row)) for row in given])
    assert found["f1"] == pytest.approx(seqeval.f1_score(truth, given))
    assert found["precision"] == pytest.approx(seqeval.precision_score(truth, given))
    assert micro_f1([set()], [set()])["f1"] == 0.0


def test_labels_are_ordered_and_weighed() -> None:
    assert count(["10", "9", "b", "a", "9", "nan"]) == (["9", "10", "a", "b", "nan"], [2, 1, 1, 1, 1])
    assert name_of_label(1.0, 0) == "1"
    balanced = weights([90, 10], "balanced")
    assert balanced[1] / balanced[0] == pytest.approx(9)
    assert (90 * balanced[0] + 10 * balanced[1]) / 100 == pytest.approx(1)
    assert weights([90, 10], "none") == [1.0, 1.0]
