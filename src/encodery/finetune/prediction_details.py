"""What the report of a fine-tuned model draws: confusions, calibration, labels of sets, the worst errors. Plain JSON.

Shapes: R rows, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from encodery.finetune import calibrate
from encodery.finetune.heads.labels import label_names, score_values
from encodery.finetune.tasks import Answer, AnswerItem, Rows, Task, TaskMetadata

MAX_ERRORS = 20
MAX_TEXT_CHARACTERS = 400


def prediction_details(task: Task, answers: Sequence[Answer], rows: Rows, metadata: TaskMetadata) -> dict[str, Any]:
    """Of the answers (R) for rows whose truth is known: `figures` always; for classes `labels`, `confusion` (C, C) with
    a row for each truth, `reliability`; for sets of labels or spans `each`, how often each label is true, given and
    right. `errors`: the most confident ones first, where answers have a `probability`; else those with most `wrong`
    members, or farthest `off`."""
    found: dict[str, Any] = {"rows": len(answers), "figures": task.metrics(answers, rows, metadata)}
    if task.chart == "classes" and answers:
        found |= _classes(answers, label_names(rows["label"]), metadata)
    true, given = task.answer_items(rows), task.answer_items(rows, answers)
    if true is not None and given is not None:
        return found | {"each": _each(true, given), "errors": _errors_of_sets(task, rows, true, given)}
    target = task.schema_for(list(rows), True).targets[0]
    by, errors = (
        ("off", _apart(answers, rows)) if target == "score" else ("probability", _unsure(answers, rows[target]))
    )
    found["errors"] = [
        {
            "row": row,
            "text": _shown(task, rows, row),
            "truth": _cut(rows[target][row]),
            "prediction": _cut(answers[row]["prediction"]),
            by: much,
        }
        for much, row in sorted(errors, key=lambda pair: (-pair[0], pair[1]))[:MAX_ERRORS]
    ]
    return found


def _unsure(answers: Sequence[Answer], truth: Sequence[Any]) -> list[tuple[float, int]]:
    """Probability and number of the rows answered wrong, of answers that have a probability."""
    return [
        (answer["probability"], row)
        for row, answer in enumerate(answers)
        if isinstance(answer.get("probability"), float) and not _right(answer, truth[row])
    ]


def _apart(answers: Sequence[Answer], rows: Rows) -> list[tuple[float, int]]:
    """How far each row's number is from its truth, and its own number."""
    off = np.abs(np.subtract([answer["prediction"] for answer in answers], score_values(rows["score"])))
    return [(distance, row) for row, distance in enumerate(off.tolist()) if distance]


def _each(true: Sequence[set[AnswerItem]], given: Sequence[set[AnswerItem]]) -> list[dict[str, Any]]:
    """Of each label, the commonest first: how often it is `true`, `given`, and `right`."""
    counts = [
        Counter(str(member[-1]) for some in sets for member in some)
        for sets in (true, given, [a & b for a, b in zip(true, given, strict=True)])
    ]
    labels = sorted({*counts[0], *counts[1]}, key=lambda label: (-counts[0][label], label))
    names = ("true", "given", "right")
    return [{"label": label, **{n: c[label] for n, c in zip(names, counts, strict=True)}} for label in labels]


def _errors_of_sets(
    task: Task, rows: Rows, true: Sequence[set[AnswerItem]], given: Sequence[set[AnswerItem]]
) -> list[dict[str, Any]]:
    """The rows with most members that are missed or should not be there."""
    wrong = sorted((-len(a ^ b), row) for row, (a, b) in enumerate(zip(true, given, strict=True)) if a != b)
    return [
        {
            "row": row,
            "text": _shown(task, rows, row),
            "truth": _said(rows, row, true[row]),
            "prediction": _said(rows, row, given[row]),
            "wrong": -count,
        }
        for count, row in wrong[:MAX_ERRORS]
    ]


def _said(rows: Rows, row: int, members: set[AnswerItem]) -> str:
    """Labels in order; spans by their place, each with its words."""
    if "tokens" in rows:
        words = [str(word) for word in rows["tokens"][row]]
        told = [f"{label}: {' '.join(words[start:stop])}" for start, stop, label in sorted(members)]
    elif all(len(member) == 3 for member in members):
        told = [f"{label}: {rows['text'][row][start:stop]}" for start, stop, label in sorted(members)]
    else:
        told = sorted(str(member[-1]) for member in members)
    return _cut("; ".join(told))


def _classes(answers: Sequence[Answer], truth: list[str], known: TaskMetadata) -> dict[str, Any]:
    labels = [*known["labels"], *sorted(set(truth) - set(known["labels"]))]
    at = {label: place for place, label in enumerate(labels)}
    matrix = np.zeros((len(labels), len(labels)), np.int64)
    given = [answer["prediction"] for answer in answers]
    np.add.at(matrix, ([at[label] for label in truth], [at[label] for label in given]), 1)
    correct = np.array([a == b for a, b in zip(truth, given, strict=True)])
    drawn = calibrate.reliability_diagram(np.array([answer["probability"] for answer in answers]), correct)
    return {
        "labels": labels,
        "confusion": matrix.tolist(),
        "reliability": {
            "sure": drawn.confidence.tolist(),
            "right": drawn.accuracy.tolist(),
            "count": drawn.count.tolist(),
            "error": drawn.error,
        },
    }


def _right(answer: Answer, truth: Any) -> bool:
    """Whether an answer is the truth: a label, a choice's number, one of a question's answers."""
    if "choice" in answer:
        return str(truth) in (str(answer["choice"]), answer["prediction"])
    if isinstance(truth, Mapping):
        return answer["prediction"] in (truth.get("text") or [""])
    if isinstance(truth, list | tuple) and (not truth or isinstance(truth[0], Mapping)):
        return answer["prediction"] in [one["text"] for one in truth] if truth else not answer["prediction"]
    return str(answer["prediction"]) == label_names([truth])[0]


def _shown(task: Task, rows: Rows, row: int) -> list[str]:
    return [_cut(rows[role][row]) for role in task.schema_for(list(rows), False).inputs]


def _cut(value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= MAX_TEXT_CHARACTERS else f"{text[:MAX_TEXT_CHARACTERS]} …"
