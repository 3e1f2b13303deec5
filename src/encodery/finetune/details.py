"""What the report of a fine-tuned model draws: confusions, calibration, the most confident errors. Plain JSON.

Shapes: R rows, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from encodery.finetune import calibrate
from encodery.finetune.tasks import Answer, Known, Rows, Task
from encodery.finetune.tasks._labels import names_of

MOST = 20
LONGEST = 400


def details(task: Task, answers: Sequence[Answer], rows: Rows, known: Known) -> dict[str, Any]:
    """Of the answers (R) for rows whose truth is known: `figures` always; for classes `labels`, `confusion` (C, C) with
    a row for each truth, `reliability`; `errors`, the most confident first, where answers have a probability."""
    found: dict[str, Any] = {"rows": len(answers), "figures": task.figures(answers, rows, known)}
    if task.chart == "classes" and answers:
        found |= _classes(answers, names_of(rows["label"]), known)
    target = task.form(list(rows), True).targets[0]
    errors = []
    for row, answer in enumerate(answers):
        truth = rows[target][row]
        if isinstance(answer.get("probability"), float) and not _right(answer, truth):
            errors.append((answer["probability"], row))
    found["errors"] = [
        {
            "row": row,
            "text": _shown(task, rows, row),
            "truth": _cut(rows[target][row]),
            "prediction": _cut(answers[row]["prediction"]),
            "probability": probability,
        }
        for probability, row in sorted(errors, key=lambda pair: (-pair[0], pair[1]))[:MOST]
    ]
    return found


def _classes(answers: Sequence[Answer], truth: list[str], known: Known) -> dict[str, Any]:
    labels = [*known["labels"], *sorted(set(truth) - set(known["labels"]))]
    at = {label: place for place, label in enumerate(labels)}
    matrix = np.zeros((len(labels), len(labels)), np.int64)
    given = [answer["prediction"] for answer in answers]
    np.add.at(matrix, ([at[label] for label in truth], [at[label] for label in given]), 1)
    correct = np.array([a == b for a, b in zip(truth, given, strict=True)])
    drawn = calibrate.reliability(np.array([answer["probability"] for answer in answers]), correct)
    return {
        "labels": labels,
        "confusion": matrix.tolist(),
        "reliability": {
            "sure": drawn.sure.tolist(),
            "right": drawn.right.tolist(),
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
    return str(answer["prediction"]) == names_of([truth])[0]


def _shown(task: Task, rows: Rows, row: int) -> list[str]:
    return [_cut(rows[role][row]) for role in task.form(list(rows), False).inputs]


def _cut(value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
