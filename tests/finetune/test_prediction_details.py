"""What a run writes for its report: labels of sets counted by hand, and the worst errors first, for every kind of
answer; and that the report draws them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from encodery.evaluate.report.predictions import prediction_sections
from encodery.finetune.prediction_details import prediction_details
from encodery.finetune.task_types import TaskMetadata
from encodery.finetune.tasks import Task
from encodery.finetune.tasks.classify import TextClassification
from encodery.finetune.tasks.multilabel import MultilabelClassification
from encodery.finetune.tasks.regress import TextRegression
from encodery.finetune.tasks.tag import SequenceTagging

KNOWN = TaskMetadata(labels=("a", "b"))


def drawn(task: Task, answers: list[dict[str, Any]], rows: dict[str, list[Any]], folder: Path) -> tuple[Any, str]:
    """The details, and the page's sections on them."""
    details = prediction_details(task, answers, rows, KNOWN)
    (folder / "details.json").write_text(json.dumps({"notes": [], "test": details}))
    return details, "".join(f"{name}: {body}" for name, body in prediction_sections(folder))


def test_labels_of_several(tmp_path: Path) -> None:
    rows = {"text": ["one", "two", "three"], "labels": [["a", "b"], ["a"], ["b"]]}
    answers = [{"prediction": ["a"]}, {"prediction": ["a"]}, {"prediction": ["a", "c"]}]
    details, page = drawn(MultilabelClassification(), answers, rows, tmp_path)
    assert details["per_label"] == [
        {"label": "a", "expected": 2, "predicted": 3, "correct": 2},
        {"label": "b", "expected": 2, "predicted": 0, "correct": 0},
        {"label": "c", "expected": 0, "predicted": 1, "correct": 0},
    ]
    assert [(one["row"], one["num_wrong"]) for one in details["errors"]] == [(2, 3), (0, 1)]
    assert (details["errors"][0]["expected"], details["errors"][0]["prediction"]) == ("b", "a; c")
    assert "Labels:" in page
    assert "missing or superfluous" in page


@pytest.mark.parametrize("words", [True, False])
def test_spans_are_shown_with_their_words(tmp_path: Path, words: bool) -> None:
    if words:
        rows: dict[str, list[Any]] = {
            "tokens": [["Ada", "saw", "Rome"], ["so", "it", "is"]],
            "tags": [["B-who", "O", "B-where"], ["O", "O", "O"]],
        }
        answers: list[dict[str, Any]] = [{"prediction": ["B-who", "O", "O"]}, {"prediction": ["O", "O", "O"]}]
    else:
        both = [{"start": 0, "end": 3, "label": "who"}, {"start": 8, "end": 12, "label": "where"}]
        rows = {"text": ["Ada saw Rome", "so it is"], "spans": [both, []]}
        answers = [{"prediction": both[:1], "spans": both[:1]}, {"prediction": [], "spans": []}]
    details, page = drawn(SequenceTagging(), answers, rows, tmp_path)
    assert {one["label"]: (one["expected"], one["predicted"], one["correct"]) for one in details["per_label"]} == {
        "where": (1, 0, 0),
        "who": (1, 1, 1),
    }
    assert [(one["expected"], one["prediction"], one["num_wrong"]) for one in details["errors"]] == [
        ("who: Ada; where: Rome", "who: Ada", 1)
    ]
    assert "where: Rome" in page


def test_numbers_are_shown_by_how_far_they_are_off(tmp_path: Path) -> None:
    rows = {"text": ["one", "two", "three"], "score": ["1", 2.0, 3]}
    details, page = drawn(
        TextRegression(), [{"prediction": 1.5}, {"prediction": 5.0}, {"prediction": 3.0}], rows, tmp_path
    )
    assert [(one["row"], one["absolute_error"]) for one in details["errors"]] == [(1, 3.0), (0, 0.5)]
    assert "error" in page


def test_classes_have_their_surest_errors_first(tmp_path: Path) -> None:
    rows = {"text": ["one", "two", "three"], "label": ["a", "a", "b"]}
    answers = [
        {"prediction": label, "probability": sure, "probabilities": {"a": sure, "b": 1 - sure}}
        for label, sure in (("b", 0.6), ("a", 0.9), ("a", 0.8))
    ]
    details, page = drawn(TextClassification(), answers, rows, tmp_path)
    assert [(one["row"], one["probability"]) for one in details["errors"]] == [(2, 0.8), (0, 0.6)]
    assert details["confusion"] == [[1, 1], [1, 0]]
    assert "confidence" in page
