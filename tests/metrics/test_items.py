"""Metrics over items, compared with scikit-learn, scipy and seqeval; invalid input is refused."""

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
    truth, predicted = classes()
    expected = sklearn.f1_score(truth, predicted, average=average)
    assert F1(average=average).score(WORDS[truth], WORDS[predicted]) == pytest.approx(expected)
    expected = sklearn.precision_score(truth, predicted, average=average)
    assert Precision(average=average).score(truth.tolist(), predicted.tolist()) == pytest.approx(expected)
    indicators = RNG.integers(0, 2, (2, 30, 5))
    expected = sklearn.f1_score(indicators[0], indicators[1], average=average)
    assert F1(average=average).score(indicators[0], indicators[1]) == pytest.approx(expected)


def test_the_f1_of_one_class() -> None:
    truth, predicted = ["ham", "spam", "spam", "ham"], ["spam", "spam", "ham", "ham"]
    assert F1(average="binary", positive="spam").score(truth, predicted) == 0.5
    assert F1(average="binary", positive="eggs").score(truth, predicted) == 0.0
    assert Precision(average="binary", positive="ham").score(truth, predicted) == 0.5


def test_frequent_metrics_need_no_other_library() -> None:
    code = (
        "import sys; from encodery.metrics import f1, mcc, pearson, precision, spearman, accuracy; "
        "f1.F1().score(list('abca'), list('abba')); mcc.MCC().score([0, 1, 1], [0, 1, 0]); "
        "precision.Precision().score([0, 1], [0, 0]); spearman.Spearman().score([1, 2, 3], [3, 2, 2]); "
        "pearson.Pearson().score([1, 2, 3], [3, 2, 2]); accuracy.Accuracy().score([1], [1]); "
        "assert not {'sklearn', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_averages_and_unusual_labels() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    indicators = RNG.integers(0, 2, (2, 30, 5))
    indicators[:, :, 2] = 0  # A label that is neither true nor predicted anywhere.
    for average in ("macro", "micro", "weighted"):
        expected = sklearn.f1_score(indicators[0], indicators[1], average=average, zero_division=0.0)
        assert F1(average=average).score(indicators[0], indicators[1]) == pytest.approx(expected)
    assert F1(average="weighted").score(np.zeros((3, 2), int), np.zeros((3, 2), int)) == 0.0
    for metric in (F1(), Precision(), MCC()):
        with pytest.raises(InputError, match=r"whole numbers, but one is 0\.5"):
            metric.score([0.5, 1.0], [1.0, 1.0])
    with pytest.raises(InputError, match="each must be 0 or 1"):
        F1().score([[0, 2], [1, 1]], [[0, 1], [1, 1]])


def test_classes_that_occur_on_one_side_only() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    truth, predicted = [0, 0, 1, 1], [0, 2, 2, 0]
    assert F1().score(truth, predicted) == pytest.approx(1 / 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = sklearn.balanced_accuracy_score(truth, predicted)
    assert BalancedAccuracy().score(truth, predicted) == expected == 0.25
    assert MCC().score([1, 1], [1, 1]) == 0.0


def test_other_metrics_of_classes() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    truth, predicted = classes()
    assert MCC().score(WORDS[truth], WORDS[predicted]) == pytest.approx(sklearn.matthews_corrcoef(truth, predicted))
    assert BalancedAccuracy().score(truth, predicted) == pytest.approx(
        sklearn.balanced_accuracy_score(truth, predicted)
    )
    assert VMeasure().score(WORDS[truth], predicted) == pytest.approx(sklearn.v_measure_score(truth, predicted))


def test_metrics_of_numbers() -> None:
    stats, sklearn = pytest.importorskip("scipy.stats"), pytest.importorskip("sklearn.metrics")
    truth, predicted = RNG.integers(0, 6, 50).astype(float), RNG.normal(size=50)
    assert Spearman().score(truth, predicted) == pytest.approx(stats.spearmanr(truth, predicted).statistic)
    assert Pearson().score(truth, predicted) == pytest.approx(stats.pearsonr(truth, predicted).statistic)
    assert MSE().score(truth, predicted) == pytest.approx(sklearn.mean_squared_error(truth, predicted))
    assert MAE().score(truth, predicted) == pytest.approx(sklearn.mean_absolute_error(truth, predicted))
    for metric in (Spearman(), Pearson()):
        assert metric.score([1, 1, 1], [1, 2, 3]) == 0.0
        assert metric.score([1], [2]) == 0.0


def test_metrics_of_scores() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    truth, predicted = RNG.integers(0, 2, 50), RNG.normal(size=50).round(1)
    assert AUC().score(truth, predicted) == pytest.approx(sklearn.roc_auc_score(truth, predicted))
    assert AveragePrecision().score(truth, predicted) == pytest.approx(
        sklearn.average_precision_score(truth, predicted)
    )


def test_metrics_of_probabilities() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    truth, raw = RNG.integers(0, 3, 80), RNG.random((80, 3))
    predicted = raw / raw.sum(1, keepdims=True)
    binary, probability = RNG.integers(0, 2, 80), RNG.random(80)
    assert Brier().score(binary, probability) == pytest.approx(sklearn.brier_score_loss(binary, probability))
    assert Brier().score(truth, predicted) == pytest.approx(((predicted - np.eye(3)[truth]) ** 2).sum() / 80)
    expected = 0.0
    for low in np.arange(10) / 10:
        in_bin = (predicted.max(1) > low) & (predicted.max(1) <= low + 0.1)
        if in_bin.any():
            expected += in_bin.mean() * abs(
                (predicted.argmax(1) == truth)[in_bin].mean() - predicted.max(1)[in_bin].mean()
            )
    assert ECE(bins=10).score(truth, predicted) == pytest.approx(expected)
    assert ECE().score([1, 1, 1, 0], [0.75] * 4) == pytest.approx(0)
    with pytest.raises(SettingsError):
        ECE(bins=0)


@pytest.mark.skipif(importlib.util.find_spec("seqeval") is None, reason="seqeval is not installed")
@pytest.mark.parametrize("average", ["micro", "macro"])
def test_span_f1_equals_seqeval(average: Any) -> None:
    from seqeval.metrics import f1_score

    tags = ["O", "O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in ("PER", "LOC-x"))]
    for _ in range(50):
        truth = [RNG.choice(tags, length).tolist() for length in (9, 1, 5)]
        predicted = [[tag if RNG.random() < 0.7 else str(RNG.choice(tags)) for tag in row] for row in truth]
        expected = f1_score(truth, predicted, average=average, zero_division=0)
        assert SpanF1(average=average).score(truth, predicted) == pytest.approx(expected)


@pytest.mark.parametrize(
    "truth, predicted, score",
    [
        ([["B-X", "I-X", "O"]], [["I-X", "I-X", "O"]], 1.0),
        ([["B-X", "B-X"]], [["B-X", "I-X"]], 0.0),
        ([["B-X", "I-Y"]], [["B-X", "B-Y"]], 1.0),
        ([["B-X", "O"], ["O"]], [["B-X", "O"], ["S-X"]], 2 / 3),
        ([["O"]], [["O"]], 1.0),
    ],
)
def test_spans(truth: list[list[str]], predicted: list[list[str]], score: float) -> None:
    assert SpanF1().score(truth, predicted) == pytest.approx(score)


def test_answers() -> None:
    truth = [["The Eiffel-Tower", "a tower"], "42", [], [], ["שלום עולם"]]
    predicted = ["tower", "42.", "", "something", "שלום"]
    assert ExactMatch().per_item(truth, predicted).tolist() == [1, 1, 1, 0, 0]
    assert AnswerF1().per_item(truth, predicted).tolist() == pytest.approx([1, 1, 1, 0, 2 / 3])
    assert AnswerF1().score(["new york city"], ["the York city hall"]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    "metric, truth, predicted, message",
    [
        (F1(), ["1", "0"], [1, 0], "could never be equal"),
        (F1(), [1, 0], [1, 0, 1], r"shape \(2,\), but the prediction \(3,\)"),
        (F1(), [1.0, np.nan], [1.0, 0.0], "item 1 is NaN, not a label"),
        (F1(), ["a", None], ["a", "b"], "one is NoneType"),
        (MCC(), np.eye(2), np.eye(2), "one label per item"),
        (Spearman(), [1, 2], [1, np.nan], "item 1 is NaN"),
        (MSE(), ["a"], [1], "numbers are needed"),
        (AUC(), [1, 1], [0.2, 0.3], "truth of all items is 1"),
        (AUC(), [1, 2], [0.2, 0.3], "0 or 1"),
        (Brier(), [0, 3], [[0.5, 0.5], [0.5, 0.5]], "class number from 0 to 1"),
        (ECE(), [0, 1], [[3.0, -2.0], [0.5, 0.5]], "these are scores"),
        (SpanF1(), [["O"]], [["PER"]], "tag 'PER' of sentence 0"),
        (SpanF1(), [["O"]], [["O", "O"]], "has 1 tags, but its prediction 2"),
        (ExactMatch(), ["a"], [], "1 questions but 0 answers"),
        (VMeasure(), [1], [1, 2], "labels are"),
    ],
)
def test_invalid_input_is_refused(metric: Any, truth: Any, predicted: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        metric.score(truth, predicted)
