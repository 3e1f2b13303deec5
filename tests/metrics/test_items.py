"""The metrics of items against those of scikit-learn, scipy and seqeval, and on what cannot be measured."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest

from encodery.base.errors import InputError, SettingsError
from encodery.metrics.answer_f1 import AnswerF1
from encodery.metrics.auc import AUC
from encodery.metrics.average_precision import AveragePrecision
from encodery.metrics.balanced_accuracy import BalancedAccuracy
from encodery.metrics.brier import Brier
from encodery.metrics.ece import ECE
from encodery.metrics.exact_match import ExactMatch
from encodery.metrics.f1 import F1
from encodery.metrics.mae import MAE
from encodery.metrics.mcc import MCC
from encodery.metrics.mse import MSE
from encodery.metrics.pearson import Pearson
from encodery.metrics.precision import Precision
from encodery.metrics.span_f1 import SpanF1
from encodery.metrics.spearman import Spearman
from encodery.metrics.v_measure import VMeasure

RNG = np.random.default_rng(0)
WORDS = np.array(["red", "green", "blue", "שלום"])


def classes(rows: int = 60) -> tuple[np.ndarray, np.ndarray]:
    return RNG.integers(0, 4, rows), RNG.integers(0, 4, rows)


@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
def test_f1_and_precision(average: Any) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    truth, given = classes()
    expected = sklearn.f1_score(truth, given, average=average)
    assert F1(average=average).score(WORDS[truth], WORDS[given]) == pytest.approx(expected)
    expected = sklearn.precision_score(truth, given, average=average)
    assert Precision(average=average).score(truth.tolist(), given.tolist()) == pytest.approx(expected)
    several = RNG.integers(0, 2, (2, 30, 5))
    expected = sklearn.f1_score(several[0], several[1], average=average)
    assert F1(average=average).score(several[0], several[1]) == pytest.approx(expected)


def test_the_f1_of_one_class() -> None:
    truth, given = ["ham", "spam", "spam", "ham"], ["spam", "spam", "ham", "ham"]
    assert F1(average="binary", positive="spam").score(truth, given) == 0.5
    assert F1(average="binary", positive="eggs").score(truth, given) == 0.0
    assert Precision(average="binary", positive="ham").score(truth, given) == 0.5


def test_figures_asked_for_often_need_no_other_library() -> None:
    code = (
        "import sys; from encodery.metrics import f1, mcc, pearson, precision, spearman, accuracy; "
        "f1.F1().score(list('abca'), list('abba')); mcc.MCC().score([0, 1, 1], [0, 1, 0]); "
        "precision.Precision().score([0, 1], [0, 0]); spearman.Spearman().score([1, 2, 3], [3, 2, 2]); "
        "pearson.Pearson().score([1, 2, 3], [3, 2, 2]); accuracy.Accuracy().score([1], [1]); "
        "assert not {'sklearn', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_averages_and_labels_that_are_odd() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    several = RNG.integers(0, 2, (2, 30, 5))
    several[:, :, 2] = 0  # A label that is neither true nor predicted anywhere.
    for average in ("macro", "micro", "weighted"):
        expected = sklearn.f1_score(several[0], several[1], average=average, zero_division=0.0)
        assert F1(average=average).score(several[0], several[1]) == pytest.approx(expected)
    assert F1(average="weighted").score(np.zeros((3, 2), int), np.zeros((3, 2), int)) == 0.0
    for metric in (F1(), Precision(), MCC()):
        with pytest.raises(InputError, match=r"whole numbers, one is 0\.5"):
            metric.score([0.5, 1.0], [1.0, 1.0])
    with pytest.raises(InputError, match="each is 0 or 1"):
        F1().score([[0, 2], [1, 1]], [[0, 1], [1, 1]])


def test_classes_that_one_side_lacks() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    truth, given = [0, 0, 1, 1], [0, 2, 2, 0]
    assert F1().score(truth, given) == pytest.approx(1 / 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = sklearn.balanced_accuracy_score(truth, given)
    assert BalancedAccuracy().score(truth, given) == expected == 0.25
    assert MCC().score([1, 1], [1, 1]) == 0.0


def test_other_figures_of_classes() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    truth, given = classes()
    assert MCC().score(WORDS[truth], WORDS[given]) == pytest.approx(sklearn.matthews_corrcoef(truth, given))
    assert BalancedAccuracy().score(truth, given) == pytest.approx(sklearn.balanced_accuracy_score(truth, given))
    assert VMeasure().score(WORDS[truth], given) == pytest.approx(sklearn.v_measure_score(truth, given))


def test_figures_of_numbers() -> None:
    stats, sklearn = pytest.importorskip("scipy.stats"), pytest.importorskip("sklearn.metrics")
    truth, given = RNG.integers(0, 6, 50).astype(float), RNG.normal(size=50)
    assert Spearman().score(truth, given) == pytest.approx(stats.spearmanr(truth, given).statistic)
    assert Pearson().score(truth, given) == pytest.approx(stats.pearsonr(truth, given).statistic)
    assert MSE().score(truth, given) == pytest.approx(sklearn.mean_squared_error(truth, given))
    assert MAE().score(truth, given) == pytest.approx(sklearn.mean_absolute_error(truth, given))
    for metric in (Spearman(), Pearson()):
        assert metric.score([1, 1, 1], [1, 2, 3]) == 0.0
        assert metric.score([1], [2]) == 0.0


def test_figures_of_scores() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    truth, given = RNG.integers(0, 2, 50), RNG.normal(size=50).round(1)
    assert AUC().score(truth, given) == pytest.approx(sklearn.roc_auc_score(truth, given))
    assert AveragePrecision().score(truth, given) == pytest.approx(sklearn.average_precision_score(truth, given))


def test_figures_of_probabilities() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    truth, raw = RNG.integers(0, 3, 80), RNG.random((80, 3))
    given = raw / raw.sum(1, keepdims=True)
    yes, chance = RNG.integers(0, 2, 80), RNG.random(80)
    assert Brier().score(yes, chance) == pytest.approx(sklearn.brier_score_loss(yes, chance))
    assert Brier().score(truth, given) == pytest.approx(((given - np.eye(3)[truth]) ** 2).sum() / 80)
    expected = 0.0
    for low in np.arange(10) / 10:
        held = (given.max(1) > low) & (given.max(1) <= low + 0.1)
        if held.any():
            expected += held.mean() * abs((given.argmax(1) == truth)[held].mean() - given.max(1)[held].mean())
    assert ECE(bins=10).score(truth, given) == pytest.approx(expected)
    assert ECE().score([1, 1, 1, 0], [0.75] * 4) == pytest.approx(0)
    with pytest.raises(SettingsError):
        ECE(bins=0)


@pytest.mark.skipif(importlib.util.find_spec("seqeval") is None, reason="seqeval is not installed")
@pytest.mark.parametrize("average", ["micro", "macro"])
def test_spans_are_those_of_seqeval(average: Any) -> None:
    from seqeval.metrics import f1_score

    tags = ["O", "O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in ("PER", "LOC-x"))]
    for _ in range(50):
        truth = [RNG.choice(tags, length).tolist() for length in (9, 1, 5)]
        given = [[tag if RNG.random() < 0.7 else str(RNG.choice(tags)) for tag in row] for row in truth]
        expected = f1_score(truth, given, average=average, zero_division=0)
        assert SpanF1(average=average).score(truth, given) == pytest.approx(expected)


@pytest.mark.parametrize(
    "truth, given, score",
    [
        ([["B-X", "I-X", "O"]], [["I-X", "I-X", "O"]], 1.0),
        ([["B-X", "B-X"]], [["B-X", "I-X"]], 0.0),
        ([["B-X", "I-Y"]], [["B-X", "B-Y"]], 1.0),
        ([["B-X", "O"], ["O"]], [["B-X", "O"], ["S-X"]], 2 / 3),
        ([["O"]], [["O"]], 1.0),
    ],
)
def test_spans(truth: list[list[str]], given: list[list[str]], score: float) -> None:
    assert SpanF1().score(truth, given) == pytest.approx(score)


def test_answers() -> None:
    truth = [["The Eiffel-Tower", "a tower"], "42", [], [], ["שלום עולם"]]
    given = ["tower", "42.", "", "something", "שלום"]
    assert ExactMatch().per_item(truth, given).tolist() == [1, 1, 1, 0, 0]
    assert AnswerF1().per_item(truth, given).tolist() == pytest.approx([1, 1, 1, 0, 2 / 3])
    assert AnswerF1().score(["new york city"], ["the York city hall"]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    "metric, truth, given, said",
    [
        (F1(), ["1", "0"], [1, 0], "could never agree"),
        (F1(), [1, 0], [1, 0, 1], r"shape \(2,\), the prediction \(3,\)"),
        (F1(), [1.0, np.nan], [1.0, 0.0], "item 1 is no label but NaN"),
        (F1(), ["a", None], ["a", "b"], "one is NoneType"),
        (MCC(), np.eye(2), np.eye(2), "one label for each item"),
        (Spearman(), [1, 2], [1, np.nan], "item 1 is NaN"),
        (MSE(), ["a"], [1], "needs numbers"),
        (AUC(), [1, 1], [0.2, 0.3], "all items are 1"),
        (AUC(), [1, 2], [0.2, 0.3], "0 or 1"),
        (Brier(), [0, 3], [[0.5, 0.5], [0.5, 0.5]], "class number from 0 to 1"),
        (ECE(), [0, 1], [[3.0, -2.0], [0.5, 0.5]], "these are scores"),
        (SpanF1(), [["O"]], [["PER"]], "tag 'PER' of sentence 0"),
        (SpanF1(), [["O"]], [["O", "O"]], "has 1 tags, its prediction 2"),
        (ExactMatch(), ["a"], [], "1 questions, and 0 answers"),
        (VMeasure(), [1], [1, 2], "labels are"),
    ],
)
def test_what_cannot_be_measured_is_refused(metric: Any, truth: Any, given: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        metric.score(truth, given)
