"""The metrics of a fine-tuned task on labelled examples, with the values of the items they were computed from.

Names and values are those of `Task.metrics`. The bootstrap draws examples: the spans or tags of a text are not
independent of each other, and the texts of a query are drawn together. Shapes: N examples, Q queries, T tags.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from encodery.base.errors import InputError
from encodery.evaluate.metric_value import MetricValue
from encodery.evaluate.suites._pairs import as_ranks
from encodery.finetune.calibration import reliability_diagram
from encodery.finetune.heads.labels import label_names, score_values
from encodery.finetune.heads.set_metrics import precision_recall_f1
from encodery.finetune.task_types import Answer, Rows, TaskMetadata
from encodery.finetune.tasks import Task
from encodery.metrics.f1 import F1
from encodery.metrics.mcc import MCC
from encodery.metrics.ndcg import NDCG
from encodery.metrics.pearson import Pearson
from encodery.metrics.spearman import Spearman

RANKING, RANKING_METRICS = "ndcg_or_spearman", ("ndcg", "spearman")  # `rank` selects by whichever its rows allow.
PER_EXAMPLE = {"answers": ("exact", "f1"), "choices": ("accuracy", "nll")}
"""Role -> metrics that are means over the metric of each example."""
MAX_LABELS = 20  # Up to this number of labels, each has its own metric.


def task_metrics(task: Task, answers: Sequence[Answer], rows: Rows, known: TaskMetadata) -> dict[str, MetricValue]:
    """Return the metrics of the answers (N) to labelled examples, the main one first.

    If answers are sets of few labels, the F1 of each label is included. Raises `InputError` naming an invalid example.
    """
    values = task.metrics(answers, rows, known)
    names = [name for name in values if name != RANKING]
    main = (
        task.selection_metric
        if task.selection_metric in names
        else next((name for name in RANKING_METRICS if name in names), names[0])
    )
    fast = _fast_metrics(task, answers, rows, known, tuple(values))
    metrics = {}
    for name in dict.fromkeys((main, *names)):
        metrics[name] = fast[name] if name in fast else _recomputed(task, answers, rows, known, name)
    return {**metrics, **{name: metric for name, metric in fast.items() if "," in name}}


def labels_of(task: Task, rows: Rows) -> set[str] | None:
    """Return the labels of the examples; None for a task whose answers are not labels. Raises `InputError`."""
    if task.chart == "classes":
        return set(label_names(rows["label"]))
    truth = task.answer_items(rows)
    return None if truth is None else {str(member[-1]) for members in truth for member in members}


def _fast_metrics(
    task: Task, answers: Sequence[Answer], rows: Rows, known: TaskMetadata, names: tuple[str, ...]
) -> dict[str, MetricValue]:
    """Return the metrics that need not be computed by the task for every draw."""
    if task.chart == "classes":
        return _classes(answers, label_names(rows["label"]))
    truth = task.answer_items(rows)
    if truth is not None and "precision" in names:
        return _sets(truth, task.answer_items(rows, answers) or [])
    if "tags" in rows:
        return _tags([list(map(str, tags)) for tags in rows["tags"]], [answer["prediction"] for answer in answers])
    if "query" in rows:
        return _ranked(answers, rows)
    if "score" in rows:
        return _numbers(answers, score_values(rows["score"]))
    return {
        name: metric
        for role in PER_EXAMPLE
        if role in rows
        for name, metric in _per_example(task, answers, rows, known, role)
    }


def _classes(answers: Sequence[Answer], truth: list[str]) -> dict[str, MetricValue]:
    predicted = [answer["prediction"] for answer in answers]
    correct = np.array([a == b for a, b in zip(truth, predicted, strict=True)], np.float64)
    true_probabilities = np.array([a["probabilities"].get(label, 0.0) for a, label in zip(answers, truth, strict=True)])
    confidence = np.array([answer["probability"] for answer in answers], np.float64)
    codes = _codes(truth), _codes(predicted)
    return {
        "accuracy": MetricValue.mean(correct),
        "f1": MetricValue.of(F1().score, *codes),
        "mcc": MetricValue.of(MCC().score, *codes),
        "nll": MetricValue.mean(-np.log(np.maximum(true_probabilities, 1e-12))),
        "ece": MetricValue.of(
            lambda _, drawn: reliability_diagram(drawn[:, 0], drawn[:, 1]).error,
            correct,
            np.stack([confidence, correct], 1),
        ),
    }


def _sets(truth: Sequence[set[Any]], predicted: Sequence[set[Any]]) -> dict[str, MetricValue]:
    """Return precision, recall and F1 over all members of sets, and the fraction of sets that are equal."""

    def over(name: str, label: str | None = None) -> MetricValue:
        counts = np.array([_counted(a, b, label) for a, b in zip(truth, predicted, strict=True)], np.float64)
        return MetricValue.of(lambda _, drawn: float(precision_recall_f1(*drawn.sum(0))[name]), counts[:, 2], counts)

    metrics = {name: over(name) for name in ("precision", "recall", "f1")}
    metrics["exact"] = MetricValue.mean(np.array([a == b for a, b in zip(truth, predicted, strict=True)]))
    labels = Counter(str(member[-1]) for members in truth for member in members)
    if 1 < len(labels) <= MAX_LABELS:
        metrics |= {f"f1, {label}": over("f1", label) for label, _ in labels.most_common()}
    return metrics


def _counted(truth: set[Any], predicted: set[Any], label: str | None) -> tuple[int, int, int]:
    """Return the numbers of correct, predicted and true members, of one label if it is given."""
    if label is not None:
        truth, predicted = (
            {member for member in members if str(member[-1]) == label} for members in (truth, predicted)
        )
    return len(truth & predicted), len(predicted), len(truth)


def _tags(truth: list[list[str]], predicted: list[list[str]]) -> dict[str, MetricValue]:
    """Return the metrics of tags that do not mark spans."""
    hits = [sum(a == b for a, b in zip(one, other, strict=True)) for one, other in zip(truth, predicted, strict=True)]
    counts = np.array([hits, [len(tags) for tags in truth]], np.float64).T

    def accuracy(_: np.ndarray, drawn: np.ndarray) -> float:
        hits, tags = drawn.sum(0)
        return float(hits / tags) if tags else 0.0

    codes = _objects([_codes(tags) for tags in truth]), _objects([_codes(tags) for tags in predicted])
    return {
        "accuracy": MetricValue.of(accuracy, counts[:, 1], counts),
        "f1": MetricValue.of(lambda a, b: F1().score(np.concatenate(list(a)), np.concatenate(list(b))), *codes),
    }


def _numbers(answers: Sequence[Answer], truth: np.ndarray) -> dict[str, MetricValue]:
    predicted = np.array([answer["prediction"] for answer in answers], np.float64)
    return {
        "spearman": MetricValue.of(Spearman().score, truth, predicted),
        "pearson": MetricValue.of(Pearson().score, truth, predicted),
        "rmse": MetricValue.of(lambda a, b: float(np.sqrt(((a - b) ** 2).mean())), truth, predicted),
        "mae": MetricValue.mean(np.abs(truth - predicted)),
    }


def _ranked(answers: Sequence[Answer], rows: Rows) -> dict[str, MetricValue]:
    """Return rank correlation and nDCG@10 of scored texts by query.

    nDCG@10 is over the queries with several texts, one of them above the lowest score. Scores of two models have no
    common scale, so ranks are correlated.
    """
    truth = score_values(rows["score" if "score" in rows else "label"])
    logits = np.array([answer["logit"] for answer in answers], np.float64)
    grades: dict[str, dict[str, int]] = {}
    run: dict[str, dict[str, float]] = {}
    for row, (query, level) in enumerate(zip(rows["query"], np.searchsorted(np.unique(truth), truth), strict=True)):
        grades.setdefault(query, {})[str(row)] = int(level)
        run.setdefault(query, {})[str(row)] = float(logits[row])
    judged = {query: levels for query, levels in grades.items() if len(levels) > 1 and max(levels.values()) > 0}
    metrics = {"spearman": MetricValue.of(Spearman().score, truth, as_ranks(logits))}
    return {**metrics, "ndcg": MetricValue.mean(NDCG(k=10).per_item(judged, run))} if judged else metrics


def _per_example(
    task: Task, answers: Sequence[Answer], rows: Rows, known: TaskMetadata, role: str
) -> Iterable[tuple[str, MetricValue]]:
    per_example = [
        task.metrics([answer], {name: column[row : row + 1] for name, column in rows.items()}, known)
        for row, answer in enumerate(answers)
    ]
    return [
        (name, MetricValue.mean(np.array([metrics[name] for metrics in per_example]))) for name in PER_EXAMPLE[role]
    ]


def _recomputed(task: Task, answers: Sequence[Answer], rows: Rows, known: TaskMetadata, name: str) -> MetricValue:
    """Return a metric that the task computes again for every draw, which is slow."""

    def statistic(numbers: np.ndarray, drawn: np.ndarray) -> float:
        sample = {role: [column[number] for number in numbers] for role, column in rows.items()}
        try:
            return task.metrics(list(drawn), sample, known).get(name, float("nan"))
        except InputError:
            return float("nan")

    return MetricValue.of(statistic, np.arange(len(answers)), _objects(answers))


def _codes(labels: Sequence[str]) -> np.ndarray:
    """Return a number for each label (N,) int64 that does not depend on other labels, which differ between systems."""
    known = {
        label: int.from_bytes(hashlib.sha256(label.encode("utf-8", "surrogatepass")).digest()[:8], "big", signed=True)
        for label in set(labels)
    }
    return np.array([known[label] for label in labels], np.int64)


def _objects(values: Sequence[Any]) -> np.ndarray:
    """Return an array (N,) of objects that numpy would otherwise turn into an array of more dimensions."""
    array = np.empty(len(values), object)
    array[:] = values
    return array
