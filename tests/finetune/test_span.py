"""Answers as spans: exact characters through windows, no answer, the threshold, SQuAD's figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from encodery.base.errors import InputError
from encodery.finetune.preprocess import Preprocessor
from encodery.finetune.task_types import TaskMetadata
from encodery.finetune.tasks.span import ExtractiveQA, expected_answers, squad_scores
from encodery.tokens.tokenizer import Tokenizer

CONTEXT = "one two six cat . " * 8 + "red green. " + "sun sky " * 6


def example(tokenizer: Tokenizer, text: str = "red green") -> tuple[ExtractiveQA, Preprocessor, dict[str, list[Any]]]:
    start = CONTEXT.index(text) if text else 0
    answers = [{"text": text, "start": start}] if text else []
    rows = {"question": ["who"], "context": [CONTEXT], "answers": [answers]}
    return ExtractiveQA(overlap=8), Preprocessor(tokenizer, 24, True, "chunk"), rows


def certain(starts: list[int], ends: list[int], examples: Any) -> list[np.ndarray]:
    """Logits that point at the targets."""
    logits_of_windows = []
    for number, length in enumerate(examples.lengths.tolist()):
        logits = np.zeros((length, 2))
        logits[starts[number], 0] = logits[ends[number], 1] = 9
        logits_of_windows.append(logits)
    return logits_of_windows


def test_targets_lead_back_to_the_answer_in_the_window_that_holds_it(tokenizer: Tokenizer) -> None:
    task, reader, rows = example(tokenizer)
    known = task.fit_labels(rows)
    examples = task.prepare(rows, reader, known, True)
    assert len(examples) > 3
    assert examples.lengths.max() <= 24
    starts, ends = examples.targets["start"].tolist(), examples.targets["end"].tolist()
    assert 0 in starts, "windows without the answer say so"
    assert any(starts)
    [answer] = task.decode(certain(starts, ends, examples), examples, rows, known, {})
    assert answer["prediction"] == "red green" == CONTEXT[answer["start"] : answer["end"]]
    assert task.metrics([answer], rows, known) == {"exact": 1.0, "f1": 1.0}


def test_only_models_trained_on_unanswerable_questions_predict_no_answer(tokenizer: Tokenizer) -> None:
    task, reader, rows = example(tokenizer)
    examples = task.prepare(rows, reader, TaskMetadata(unanswered=1), False)
    silent = certain([0] * len(examples), [0] * len(examples), examples)
    [answer] = task.decode(silent, examples, rows, TaskMetadata(unanswered=1), {})
    assert answer["prediction"] == ""
    assert len(answer["candidates"]) == 5
    [answer] = task.decode(silent, examples, rows, TaskMetadata(), {})
    assert answer["prediction"] != ""


def test_the_threshold_parts_what_can_be_answered(tokenizer: Tokenizer) -> None:
    task, reader, rows = example(tokenizer)
    rows = {name: values * 4 for name, values in rows.items()}
    rows["answers"] = [rows["answers"][0], [], rows["answers"][0], []]
    known = task.fit_labels(rows)
    assert known == TaskMetadata(unanswered=2)
    examples = task.prepare(rows, reader, known, True)
    outputs = certain(examples.targets["start"].tolist(), examples.targets["end"].tolist(), examples)
    for number, row in enumerate(examples.row.tolist()):
        outputs[number][0] += 30  # saying nothing is always likelier …
        if row % 2 == 0 and examples.targets["start"][number]:
            outputs[number] *= 3
            outputs[number][0] /= 3  # … but less so where there is an answer
    tuned = task.calibrate(outputs, examples, rows, known)
    assert task.metrics(task.decode(outputs, examples, rows, known, {}), rows, known)["f1"] == 0.5
    assert task.metrics(task.decode(outputs, examples, rows, known, tuned), rows, known)["f1"] == 1.0


def test_both_ways_of_writing_answers() -> None:
    rows = {"question": ["q", "q"], "context": ["a cat", "a cat"]}
    squad = {**rows, "answers": [{"text": ["cat"], "answer_start": [2]}, {"text": [], "answer_start": []}]}
    plain = {**rows, "answers": [[{"text": "cat", "answer_start": 2}], []]}
    assert ExtractiveQA().fit_labels(squad) == ExtractiveQA().fit_labels(plain) == TaskMetadata(unanswered=1)
    with pytest.raises(InputError, match="Row 0: its answer 'dog' is not at character 2"):
        ExtractiveQA().fit_labels({**rows, "answers": [[{"text": "dog", "start": 2}], []]})
    assert expected_answers({**rows, "answers": [[{"text": " cat", "start": 1}], []]}, 0) == [("cat", 2)]
    assert expected_answers({"context": ["1 11"], "answers": [[{"text": "1", "start": 3}]]}, 0) == [("1", 3)]


def test_figures_are_those_of_squad() -> None:
    assert squad_scores("The cat!", [("cat", 0)]) == (1.0, 1.0)
    assert squad_scores("black cat", [("dog", 0), ("cat", 0)]) == (0.0, pytest.approx(2 / 3))
    assert squad_scores("", []) == (1.0, 1.0)
    assert squad_scores("cat", []) == (0.0, 0.0)


def test_a_question_that_fills_the_window_is_refused(tokenizer: Tokenizer) -> None:
    task, reader, rows = example(tokenizer)
    with pytest.raises(InputError, match="Row 0: its first text has 20 tokens"):
        task.prepare({**rows, "question": ["one " * 20]}, reader, TaskMetadata(), False)
