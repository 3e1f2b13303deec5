"""What the report of a fine-tuned model shows: confusions, calibration, metrics per label, the worst errors; as JSON.

Shapes: R rows, C classes, K bins of confidence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from encodery.finetune.calibration import reliability_diagram
from encodery.finetune.heads.labels import label_names, score_values
from encodery.finetune.task_types import Answer, AnswerItem, Rows, TaskMetadata
from encodery.finetune.tasks import Task

MAX_ERRORS = 20
MAX_TEXT_CHARACTERS = 400


def prediction_details(task: Task, answers: Sequence[Answer], rows: Rows, metadata: TaskMetadata) -> dict[str, Any]:
    """Return the details of the answers (R) for rows with known targets.

    `metrics` always. For classes: `labels`, `confusion` (C, C) with a row per expected label, `reliability`. For sets
    of labels or spans: `per_label`, how often each label is expected, predicted and correct. `errors`: with the highest
    `probability` first if answers have one, else with the most wrong items (`num_wrong`) or the largest
    `absolute_error`.
    """
    details: dict[str, Any] = {"rows": len(answers), "metrics": task.metrics(answers, rows, metadata)}
    if task.chart == "classes" and answers:
        details |= _class_details(answers, label_names(rows["label"]), metadata)
    expected, predicted = task.answer_items(rows), task.answer_items(rows, answers)
    if expected is not None and predicted is not None:
        per_label = _per_label(expected, predicted)
        return details | {"per_label": per_label, "errors": _set_errors(task, rows, expected, predicted)}
    target = task.schema_for(list(rows), True).targets[0]
    if target == "score":
        measure, errors = "absolute_error", _score_errors(answers, rows)
    else:
        measure, errors = "probability", _confident_errors(answers, rows[target])
    details["errors"] = [
        {
            "row": row,
            "text": _inputs(task, rows, row),
            "expected": _shorten(rows[target][row]),
            "prediction": _shorten(answers[row]["prediction"]),
            measure: value,
        }
        for value, row in sorted(errors, key=lambda pair: (-pair[0], pair[1]))[:MAX_ERRORS]
    ]
    return details


def _confident_errors(answers: Sequence[Answer], expected: Sequence[Any]) -> list[tuple[float, int]]:
    """Return the probability and index of rows with an incorrect answer that has a probability."""
    return [
        (answer["probability"], row)
        for row, answer in enumerate(answers)
        if isinstance(answer.get("probability"), float) and not _is_right(answer, expected[row])
    ]


def _score_errors(answers: Sequence[Answer], rows: Rows) -> list[tuple[float, int]]:
    """Return the absolute error and index of rows whose predicted score is not exact."""
    errors = np.abs(np.subtract([answer["prediction"] for answer in answers], score_values(rows["score"])))
    return [(error, row) for row, error in enumerate(errors.tolist()) if error]


def _per_label(expected: Sequence[set[AnswerItem]], predicted: Sequence[set[AnswerItem]]) -> list[dict[str, Any]]:
    """Return how often each label is expected, predicted and correct; the most frequent label first."""
    correct = [a & b for a, b in zip(expected, predicted, strict=True)]
    counts = {
        name: Counter(str(item[-1]) for items in sets for item in items)
        for name, sets in (("expected", expected), ("predicted", predicted), ("correct", correct))
    }
    labels = {*counts["expected"], *counts["predicted"]}
    ordered = sorted(labels, key=lambda label: (-counts["expected"][label], label))
    return [{"label": label, **{name: count[label] for name, count in counts.items()}} for label in ordered]


def _set_errors(
    task: Task, rows: Rows, expected: Sequence[set[AnswerItem]], predicted: Sequence[set[AnswerItem]]
) -> list[dict[str, Any]]:
    """Return the rows with the most items that are missing or superfluous."""
    wrong = sorted((-len(a ^ b), row) for row, (a, b) in enumerate(zip(expected, predicted, strict=True)) if a != b)
    return [
        {
            "row": row,
            "text": _inputs(task, rows, row),
            "expected": _describe(rows, row, expected[row]),
            "prediction": _describe(rows, row, predicted[row]),
            "num_wrong": -count,
        }
        for count, row in wrong[:MAX_ERRORS]
    ]


def _describe(rows: Rows, row: int, items: set[AnswerItem]) -> str:
    """Return labels in order, or spans by position, each with its words."""
    if "tokens" in rows:
        words = [str(word) for word in rows["tokens"][row]]
        parts = [f"{label}: {' '.join(words[start:stop])}" for start, stop, label in sorted(items)]
    elif all(len(item) == 3 for item in items):
        parts = [f"{label}: {rows['text'][row][start:stop]}" for start, stop, label in sorted(items)]
    else:
        parts = sorted(str(item[-1]) for item in items)
    return _shorten("; ".join(parts))


def _class_details(answers: Sequence[Answer], expected: list[str], metadata: TaskMetadata) -> dict[str, Any]:
    labels = [*metadata.labels, *sorted(set(expected) - set(metadata.labels))]
    index_of = {label: index for index, label in enumerate(labels)}
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    predicted = [answer["prediction"] for answer in answers]
    np.add.at(confusion, ([index_of[label] for label in expected], [index_of[label] for label in predicted]), 1)
    correct = np.array([a == b for a, b in zip(expected, predicted, strict=True)])
    bins = reliability_diagram(np.array([answer["probability"] for answer in answers]), correct)
    return {
        "labels": labels,
        "confusion": confusion.tolist(),
        "reliability": {
            "confidence": bins.confidence.tolist(),
            "accuracy": bins.accuracy.tolist(),
            "count": bins.count.tolist(),
            "error": bins.error,
        },
    }


def _is_right(answer: Answer, expected: Any) -> bool:
    """Return whether an answer equals its target: a label, the index of a choice, one of a question's answers."""
    if "choice" in answer:
        return str(expected) in (str(answer["choice"]), answer["prediction"])
    if isinstance(expected, Mapping):
        return answer["prediction"] in (expected.get("text") or [""])
    if isinstance(expected, list | tuple) and (not expected or isinstance(expected[0], Mapping)):
        return answer["prediction"] in [one["text"] for one in expected] if expected else not answer["prediction"]
    return str(answer["prediction"]) == label_names([expected])[0]


def _inputs(task: Task, rows: Rows, row: int) -> list[str]:
    return [_shorten(rows[role][row]) for role in task.schema_for(list(rows), False).inputs]


def _shorten(value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= MAX_TEXT_CHARACTERS else f"{text[:MAX_TEXT_CHARACTERS]} …"
