"""Answers beside the truth of their rows, as the figures of a task that keep what they are made of.

Names and values are those of the task's own `figures`. Rows are what is drawn: a text's spans are not independent of
each other, nor are its tags; the texts of one query are drawn together. Shapes: N rows, Q queries, T tags of a row.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from encodery.base.errors import InputError
from encodery.evaluate.suites import MetricValue
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

GOAL, GOALS = "goal", ("ndcg", "spearman")  # a task may call one of several its goal
ALONE = {"answers": ("exact", "f1"), "choices": ("accuracy", "nll")}
"""Role -> figures that are means over the rows of what they are of each row by itself."""
FEW = 20  # Labels, up to which each has a figure of its own.


def task_metrics(task: Task, answers: Sequence[Answer], rows: Rows, known: TaskMetadata) -> dict[str, MetricValue]:
    """The task's figures of the answers (N) for rows whose truth is known, its goal first; where answers are sets of
    few labels, then also the F1 of each. Raises `InputError` naming a row whose truth cannot be used."""
    told = task.metrics(answers, rows, known)
    names = [name for name in told if name != GOAL]
    main = (
        task.selection_metric
        if task.selection_metric in names
        else next((name for name in GOALS if name in names), names[0])
    )
    made = _made(task, answers, rows, known, tuple(told))
    found = {}
    for name in dict.fromkeys((main, *names)):
        found[name] = made[name] if name in made else _anew(task, answers, rows, known, name)
    return {**found, **{name: figure for name, figure in made.items() if "," in name}}


def labels_of(task: Task, rows: Rows) -> set[str] | None:
    """Those that the rows' truth has; None for a task whose answers are no labels. Raises `InputError`."""
    if task.chart == "classes":
        return set(label_names(rows["label"]))
    truth = task.answer_items(rows)
    return None if truth is None else {str(member[-1]) for some in truth for member in some}


def _made(
    task: Task, answers: Sequence[Answer], rows: Rows, known: TaskMetadata, told: tuple[str, ...]
) -> dict[str, MetricValue]:
    """Those figures that need not be computed by the task itself for every draw."""
    if task.chart == "classes":
        return _classes(answers, label_names(rows["label"]))
    truth = task.answer_items(rows)
    if truth is not None and "precision" in told:
        return _sets(truth, task.answer_items(rows, answers) or [])
    if "tags" in rows:
        return _tags([list(map(str, tags)) for tags in rows["tags"]], [answer["prediction"] for answer in answers])
    if "query" in rows:
        return _ranked(answers, rows)
    if "score" in rows:
        return _numbers(answers, score_values(rows["score"]))
    return {name: figure for role in ALONE if role in rows for name, figure in _alone(task, answers, rows, known, role)}


def _classes(answers: Sequence[Answer], truth: list[str]) -> dict[str, MetricValue]:
    given = [answer["prediction"] for answer in answers]
    right = np.array([a == b for a, b in zip(truth, given, strict=True)], np.float64)
    chances = np.array([a["probabilities"].get(label, 0.0) for a, label in zip(answers, truth, strict=True)])
    sure = np.array([answer["probability"] for answer in answers], np.float64)
    codes = _codes(truth), _codes(given)
    return {
        "accuracy": MetricValue.mean(right),
        "f1": MetricValue.of(F1().score, *codes),
        "mcc": MetricValue.of(MCC().score, *codes),
        "nll": MetricValue.mean(-np.log(np.maximum(chances, 1e-12))),
        "ece": MetricValue.of(
            lambda _, said: reliability_diagram(said[:, 0], said[:, 1]).error, right, np.stack([sure, right], 1)
        ),
    }


def _sets(truth: Sequence[set[Any]], given: Sequence[set[Any]]) -> dict[str, MetricValue]:
    """Of sets, over all their members; of (label,), whether the sets are the same."""

    def over(name: str, label: str | None = None) -> MetricValue:
        counts = np.array([_counted(a, b, label) for a, b in zip(truth, given, strict=True)], np.float64)
        return MetricValue.of(lambda _, drawn: float(precision_recall_f1(*drawn.sum(0))[name]), counts[:, 2], counts)

    found = {name: over(name) for name in ("precision", "recall", "f1")}
    found["exact"] = MetricValue.mean(np.array([a == b for a, b in zip(truth, given, strict=True)]))
    labels = Counter(str(member[-1]) for some in truth for member in some)
    if 1 < len(labels) <= FEW:
        found |= {f"f1, {label}": over("f1", label) for label, _ in labels.most_common()}
    return found


def _counted(truth: set[Any], given: set[Any], label: str | None) -> tuple[int, int, int]:
    """Members that are said and true, that are said, that are true; of one label alone where it is told."""
    if label is not None:
        truth, given = ({member for member in some if str(member[-1]) == label} for some in (truth, given))
    return len(truth & given), len(given), len(truth)


def _tags(truth: list[list[str]], given: list[list[str]]) -> dict[str, MetricValue]:
    """Of tags that mark no spans, each by itself."""
    hits = [sum(a == b for a, b in zip(one, other, strict=True)) for one, other in zip(truth, given, strict=True)]
    counts = np.array([hits, [len(tags) for tags in truth]], np.float64).T

    def right(_: np.ndarray, drawn: np.ndarray) -> float:
        hits, tags = drawn.sum(0)
        return float(hits / tags) if tags else 0.0

    codes = _objects([_codes(tags) for tags in truth]), _objects([_codes(tags) for tags in given])
    return {
        "accuracy": MetricValue.of(right, counts[:, 1], counts),
        "f1": MetricValue.of(lambda a, b: F1().score(np.concatenate(list(a)), np.concatenate(list(b))), *codes),
    }


def _numbers(answers: Sequence[Answer], truth: np.ndarray) -> dict[str, MetricValue]:
    given = np.array([answer["prediction"] for answer in answers], np.float64)
    return {
        "spearman": MetricValue.of(Spearman().score, truth, given),
        "pearson": MetricValue.of(Pearson().score, truth, given),
        "rmse": MetricValue.of(lambda a, b: float(np.sqrt(((a - b) ** 2).mean())), truth, given),
        "mae": MetricValue.mean(np.abs(truth - given)),
    }


def _ranked(answers: Sequence[Answer], rows: Rows) -> dict[str, MetricValue]:
    """nDCG@10 is over the queries of which several texts are judged, one of them above the lowest score; what two
    models call a score has no common scale, its ranks have."""
    truth = score_values(rows["score" if "score" in rows else "label"])
    given = np.array([answer["logit"] for answer in answers], np.float64)
    grades: dict[str, dict[str, int]] = {}
    run: dict[str, dict[str, float]] = {}
    for row, (query, level) in enumerate(zip(rows["query"], np.searchsorted(np.unique(truth), truth), strict=True)):
        grades.setdefault(query, {})[str(row)] = int(level)
        run.setdefault(query, {})[str(row)] = float(given[row])
    several = {query: some for query, some in grades.items() if len(some) > 1 and max(some.values()) > 0}
    found = {"spearman": MetricValue.of(Spearman().score, truth, as_ranks(given))}
    return {**found, "ndcg": MetricValue.mean(NDCG(k=10).per_item(several, run))} if several else found


def _alone(
    task: Task, answers: Sequence[Answer], rows: Rows, known: TaskMetadata, role: str
) -> Iterable[tuple[str, MetricValue]]:
    each = [
        task.metrics([answer], {name: column[row : row + 1] for name, column in rows.items()}, known)
        for row, answer in enumerate(answers)
    ]
    return [(name, MetricValue.mean(np.array([one[name] for one in each]))) for name in ALONE[role]]


def _anew(task: Task, answers: Sequence[Answer], rows: Rows, known: TaskMetadata, name: str) -> MetricValue:
    """A figure of which no more is known than its name: the task computes it for every draw, which is slow."""

    def statistic(numbers: np.ndarray, drawn: np.ndarray) -> float:
        some = {role: [column[number] for number in numbers] for role, column in rows.items()}
        try:
            return task.metrics(list(drawn), some, known).get(name, float("nan"))
        except InputError:
            return float("nan")

    return MetricValue.of(statistic, np.arange(len(answers)), _objects(answers))


def _codes(labels: Sequence[str]) -> np.ndarray:
    """(N,) int64 a number for each label, the same whatever other labels there are: two systems may know different
    ones."""
    known = {
        label: int.from_bytes(hashlib.sha256(label.encode("utf-8", "surrogatepass")).digest()[:8], "big", signed=True)
        for label in set(labels)
    }
    return np.array([known[label] for label in labels], np.int64)


def _objects(values: Sequence[Any]) -> np.ndarray:
    """(N,) of things that numpy would make an array of their own of."""
    found = np.empty(len(values), object)
    found[:] = values
    return found
