"""The heads of fine-tuned models: the metrics of their tasks per item, and the rows that are evaluated or refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encodery.base.errors import InputError, SettingsError
from encodery.base.parts import find_part, part_names
from encodery.cli.__main__ import run as encodery
from encodery.evaluate.compare import SuiteTask, compare, measure
from encodery.evaluate.suites import _answered
from encodery.evaluate.suites._answered import task_metrics
from encodery.evaluate.suites.classification import ClassificationSuite
from encodery.evaluate.suites.sts import STSSuite
from encodery.evaluate.suites.task import TaskSuite
from encodery.evaluate.systems import OpenSystem, Role, UnsupportedEvaluation, Vectors
from encodery.evaluate.systems.model import ModelSystem
from encodery.evaluate.systems.tfidf import TFIDFSystem
from encodery.finetune.predict import Predictions, Predictor
from encodery.finetune.task_types import Answer, Rows, RowSchema, TaskMetadata
from encodery.finetune.tasks import Task
from encodery.finetune.tasks.classify import TextClassification
from encodery.finetune.tasks.multilabel import MultilabelClassification
from encodery.finetune.tasks.regress import TextRegression
from encodery.finetune.tasks.tag import SequenceTagging
from encodery.metrics.span_f1 import SpanF1
from encodery.model.load import load_model
from encodery.tokens.tokenizer import Tokenizer

COLOURS = ["red", "green", "blue"]
KINDS = {**dict.fromkeys(COLOURS, "colour"), "cat": "animal", "dog": "animal"}
REST = ["one", "two", "six", "cat", "dog", "sun"]
WORDS = [*COLOURS, *REST, "who", "O", "A", "B", "C", "It", "is", ".", "animal", "colour"]
TASKS = part_names(Task)  # type: ignore[type-abstract]
CASES = [(name, number) for name in TASKS for number in range(len(find_part(Task, name).schemas))]


def _tag(word: str, plain: bool) -> str:
    return "O" if word not in KINDS else KINDS[word] if plain else f"B-{KINDS[word]}"


def rows_of(form: RowSchema, count: int, seed: int = 0, plain: bool = False) -> dict[str, list[Any]]:
    """Rows with a value for each role of a form; the colour in a text is what there is to say of it. Some have an
    animal too, where a text can have several labels; `plain`: tags mark no spans."""
    draw = np.random.default_rng(seed)
    columns: dict[str, list[Any]] = {role: [] for role in (*form.inputs, *form.targets)}
    for row in range(count):
        tokens = [str(word) for word in draw.choice(REST, 5)]
        colour = COLOURS[int(draw.integers(3))]
        tokens.insert(int(draw.integers(5)), colour)
        text, query = " ".join(tokens), f"who {row // 4}"
        starts = [sum(map(len, tokens[:n])) + n for n in range(len(tokens))]
        spans = [
            {"start": at, "end": at + len(word), "label": KINDS[word]}
            for at, word in zip(starts, tokens, strict=True)
            if word in KINDS
        ]
        values: dict[str, Any] = {
            "text": text, "text_b": "one two", "query": query, "question": "who", "context": text,
            "label": str(row % 3) if "query" in columns else colour,
            "labels": [colour, *(["animal"] if {"cat", "dog"} & set(tokens) else [])], "score": float(row % 3),
            "tokens": tokens, "tags": [_tag(word, plain) for word in tokens], "spans": spans,
            "answers": [{"text": colour, "start": text.index(colour)}] if row % 4 else [], "choices": COLOURS,
            "types": ["colour", "animal"],
        }  # fmt: skip
        for role, column in columns.items():
            column.append(values[role])
    return columns


@pytest.fixture(scope="module")
def tokenizer(word_tokenizer: Callable[..., Tokenizer]) -> Tokenizer:
    return word_tokenizer(WORDS)


@pytest.fixture(scope="module")
def tuned(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer, tuned_model: Callable[..., Path]
) -> Callable[..., Path]:
    """`tuned(task, rows)`: a model with an untrained head that knows the labels of the rows."""

    def make(task: Task, rows: Rows) -> Path:
        folder = tmp_path_factory.mktemp("tuned")
        return tuned_model(folder, tokenizer, task, task.fit_metadata(rows, tokenizer), max_length=64)

    return make


@pytest.fixture(params=[*CASES, ("tag", -1)], ids=lambda case: f"{case[0]}-{case[1]}")
def predicted(
    request: pytest.FixtureRequest, tuned: Callable[..., Path]
) -> tuple[Task, list[Answer], dict[str, list[Any]], TaskMetadata]:
    """A task with noisy answers for rows."""
    name, number = request.param
    task: Task = find_part(Task, name)()  # type: ignore[type-abstract]
    form = task.schemas[max(number, 0)]
    rows = rows_of(form, 24, plain=number < 0)
    predictor = Predictor.from_model(load_model(tuned(task, rows)), "cpu")
    inputs = {role: rows[role] for role in form.inputs}
    examples = task.prepare(inputs, predictor.preprocessor, predictor.metadata, False)
    draw = np.random.default_rng(1)
    outputs = [output + draw.normal(0, 3, output.shape) for output in predictor.outputs(examples)]
    return task, task.decode(outputs, examples, inputs, predictor.metadata, {}), rows, predictor.metadata


def test_figures_are_those_of_the_task_for_all_rows_and_for_any_draw_of_them(
    predicted: tuple[Task, list[Answer], dict[str, list[Any]], TaskMetadata], monkeypatch: pytest.MonkeyPatch
) -> None:
    task, answers, rows, known = predicted
    monkeypatch.setattr(_answered, "_recomputed", None)  # Only tasks from outside the package need the slow way.
    metrics = task_metrics(task, answers, rows, known)
    expected = {name: value for name, value in task.metrics(answers, rows, known).items() if name != "ndcg_or_spearman"}
    assert set(expected) <= set(metrics)
    assert {name: metrics[name].value for name in expected} == pytest.approx(expected)
    assert task.selection_metric in (next(iter(metrics)), "ndcg_or_spearman")
    draw = np.random.default_rng(2)
    for _ in range(3):
        numbers = draw.integers(0, 24, 24)
        drawn = {role: [column[n] for n in numbers] for role, column in rows.items()}
        again = task.metrics([answers[n] for n in numbers], drawn, known)
        for name in set(expected) - {"ndcg"}:  # of queries, which are drawn whole
            figure = metrics[name]
            if figure.per_item is not None:
                value = figure.per_item[numbers].mean()
            else:
                assert figure.statistic is not None
                assert figure.truth is not None
                assert figure.predicted is not None
                value = figure.statistic(figure.truth[numbers], figure.predicted[numbers])
            if "query" in rows and name == "spearman":
                continue  # ranks among all rows are not those among the drawn ones
            assert value == pytest.approx(again[name]), name


def test_metrics_of_a_custom_task_are_recomputed_for_each_draw(
    predicted: tuple[Task, list[Answer], dict[str, list[Any]], TaskMetadata],
) -> None:
    task, answers, rows, known = predicted
    if task.selection_metric == "ndcg_or_spearman":
        pytest.skip("its queries are drawn whole")
    quick = task_metrics(task, answers, rows, known)[task.selection_metric]
    slow = _answered._recomputed(task, answers, rows, known, task.selection_metric)
    assert slow.value == pytest.approx(quick.value)
    if quick.statistic is not None:
        assert slow.interval() == pytest.approx(quick.interval())


class Fixed(OpenSystem):
    """A run whose answers are agreed on."""

    def __init__(self, name: str, task: Task, answers: Sequence[Any], metadata: TaskMetadata) -> None:
        super().__init__(name)
        self.head, self.answers, self.metadata = task, answers, metadata

    def encode(self, texts: Sequence[str], role: Role | None = None) -> Vectors:
        raise AssertionError("the head predicts; embeddings are not needed")

    def predictor(self) -> Any:
        return _Stub(self)


class _Stub:
    def __init__(self, system: Fixed) -> None:
        self.task, self.metadata, self.answers = system.head, system.metadata, list(system.answers)

    def predict(self, rows: Rows) -> Predictions:
        count = len(next(iter(rows.values())))
        some, self.answers = self.answers[:count], self.answers[count:]
        return Predictions(some, np.full(count, 5), np.arange(count) % 2)


def written(path: Path, rows: Mapping[str, Sequence[Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(dict(zip(rows, row, strict=True))) + "\n" for row in zip(*rows.values(), strict=True))
    path.write_text("".join(lines), encoding="utf-8")
    return path


def test_span_f1_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = [["B-a", "I-a", "O"], ["O", "B-b", "O"], ["B-a", "B-a", "O"]] * 4
    predictions = [["B-a", "O", "O"], ["O", "B-b", "O"], ["B-a", "B-a", "B-b"]] * 4
    data = written(tmp_path / "x.jsonl", {"words": [["x", "y", "z"]] * 12, "ner": truth})
    monkeypatch.setattr("encodery.evaluate.suites.task.BATCH_ROWS", 5)
    known = TaskMetadata(labels=("O", "B-a", "I-a", "B-b", "I-b"), counts=(1,) * 5)
    system = Fixed("x", SequenceTagging(), [{"prediction": tags, "spans": []} for tags in predictions], known)
    suite = TaskSuite()
    result = measure(suite, suite.read(data), system, "x")
    # Of each three rows: 4 spans are labelled (a, b, a, a), 5 are predicted (a, b, a, a, b), 3 of them correctly.
    assert result.main_metric == "f1"
    assert result.metrics["f1"].value == pytest.approx(2 * 3 / (4 + 5))
    assert result.metrics["f1"].value == pytest.approx(SpanF1().score(truth, predictions))
    assert result.metrics["precision"].value == pytest.approx(3 / 5)
    assert result.metrics["recall"].value == pytest.approx(3 / 4)
    assert result.metrics["f1, a"].value == pytest.approx(2 * 2 / (3 + 3))
    assert result.metrics["f1, b"].value == pytest.approx(2 * 1 / (1 + 2))
    counters = result.counters
    assert (counters.texts, counters.tokens, counters.padding, counters.dropped) == (12, 60, 0, 5)
    low, high = result.metrics["f1"].interval() or (1, 0)
    assert low < result.metrics["f1"].value < high


def classified(name: str, labels: Sequence[str], known: Sequence[str] = COLOURS) -> Fixed:
    answers = [
        {"prediction": label, "probability": 0.8, "probabilities": {one: 0.8 if one == label else 0.1 for one in known}}
        for label in labels
    ]
    return Fixed(name, TextClassification(), answers, TaskMetadata(labels=tuple(known), counts=(1,) * len(known)))


def test_two_runs_are_compared_row_by_row(tmp_path: Path) -> None:
    truth = [COLOURS[n % 3] for n in range(30)]
    other = [COLOURS[(n + 1) % 3] if n < 10 else COLOURS[n % 3] for n in range(30)]
    data = written(tmp_path / "x.jsonl", {"text": [f"t{n}" for n in range(30)], "label": truth})
    suite = TaskSuite()
    items = suite.read(data)
    one, two = (measure(suite, items, classified(*case), "x").metrics for case in (("a", truth), ("b", other)))
    apart = two["accuracy"].difference_to(one["accuracy"])
    assert apart is not None
    assert apart.value == pytest.approx(-1 / 3)
    assert apart.p == pytest.approx(2 / 2**10)  # all ten that differ, one way or the other
    worse = two["f1"].difference_to(one["f1"])
    assert worse is not None
    assert worse.interval is not None
    assert worse.interval[1] < 0
    assert worse.p < 0.02
    same = one["f1"].difference_to(one["f1"])
    assert same is not None
    assert same.p == 1


def test_labels_only_one_of_two_runs_knows_stay_themselves(tmp_path: Path) -> None:
    truth = [COLOURS[n % 2] for n in range(12)]
    data = written(tmp_path / "x.jsonl", {"text": [f"t{n}" for n in range(12)], "label": truth})
    suite = TaskSuite()
    items = suite.read(data)
    strange = ["violet", *truth[1:]]
    one = measure(suite, items, classified("a", truth), "x").metrics["f1"]
    two = measure(suite, items, classified("b", strange, [*COLOURS, "violet", "aqua"]), "x").metrics["f1"]
    swapped = measure(suite, items, classified("c", ["aqua", *truth[1:]], ["aqua", *COLOURS]), "x").metrics["f1"]
    for figure in (two, swapped):  # red: 5 of 6 predicted, no false ones; the third class is never correct
        assert figure.value == pytest.approx((10 / 11 + 1 + 0) / 3)
    apart = swapped.difference_to(two)
    assert apart is not None
    assert apart.value == 0
    behind = two.difference_to(one)
    assert behind is not None
    assert behind.value == pytest.approx((10 / 11 + 1) / 3 - 1)


def test_the_test_split_is_evaluated_and_columns_are_assigned(tmp_path: Path) -> None:
    for split, count in (("train", 9), ("dev", 10), ("test", 12)):
        rows = {"utterance": [f"{split} {n}" for n in range(count)], "intent": [COLOURS[n % 3] for n in range(count)]}
        written(tmp_path / "set" / f"{split}.jsonl", rows)
    truth = [COLOURS[n % 3] for n in range(12)]
    for suite, count, name in ((TaskSuite(), 12, "test"), (TaskSuite(split="dev"), 10, "dev")):
        items = suite.read(tmp_path / "set")
        result = measure(suite, items, classified("a", truth), "x")
        assert len(items) == result.items == count
        assert result.metrics["accuracy"].value == 1
        [note] = result.notes
        assert f"{count} {name} rows" in note
        assert "text = utterance (by name), label = intent (by name)" in note
    with_columns = TaskSuite(columns={"label": "utterance"})
    with pytest.raises(UnsupportedEvaluation, match="no label in common"):
        measure(with_columns, with_columns.read(tmp_path / "set"), classified("a", truth), "x")
    alone = measure(TaskSuite(), TaskSuite().read(tmp_path / "set" / "train.jsonl"), classified("a", truth), "x")
    assert "9 train rows" in alone.notes[0]
    with pytest.raises(InputError, match=r"no split 'tset'. Did you mean 'test'"):
        TaskSuite(split="tset").read(tmp_path / "set")


def test_evaluation_on_training_data_is_noted(tmp_path: Path) -> None:
    rows = {"text": [f"t{n}" for n in range(9)], "label": [COLOURS[n % 3] for n in range(9)]}
    for split in ("train", "test"):
        written(tmp_path / "set" / f"{split}.jsonl", rows)

    def notes(data: Path, training_data: Path) -> list[str]:
        system = classified("a", rows["label"])
        system.training_data = str(training_data)
        return list(measure(TaskSuite(), TaskSuite().read(data), system, "x").notes)

    for data in (tmp_path / "set" / "train.jsonl", tmp_path / "set"):
        assert "a: was trained on" in notes(tmp_path / "set" / "train.jsonl", data)[-1]
    assert len(notes(tmp_path / "set", tmp_path / "set")) == 1
    assert len(notes(tmp_path / "set" / "test.jsonl", tmp_path / "set")) == 1


def test_the_main_metric_can_be_set(tmp_path: Path) -> None:
    truth = [COLOURS[n % 3] for n in range(9)]
    data = written(tmp_path / "x.jsonl", {"text": [f"t{n}" for n in range(9)], "label": truth})
    suite = TaskSuite(metric="mcc")
    result = measure(suite, suite.read(data), classified("a", truth), "x")
    assert result.main_metric == next(iter(result.metrics)) == "mcc"
    with pytest.raises(SettingsError, match=r"metric = acuracy.* Did you mean 'accuracy'"):
        measure(TaskSuite(metric="acuracy"), suite.read(data), classified("a", truth), "x")


def test_rows_without_a_label_are_an_error_or_dropped_with_a_note(tmp_path: Path) -> None:
    truth = [COLOURS[n % 3] for n in range(11)]
    data = written(tmp_path / "x.jsonl", {"text": [f"t{n}" for n in range(12)], "label": ["", *truth]})
    with pytest.raises(UnsupportedEvaluation, match=r"a: its task is 'classify'.* missing=drop"):
        measure(TaskSuite(), TaskSuite().read(data), classified("a", truth), "x")
    suite = TaskSuite(missing="drop")
    result = measure(suite, suite.read(data), classified("a", truth), "x")
    assert result.items == 11
    assert result.metrics["accuracy"].value == 1
    assert "1 without a label left out" in result.notes[0]


def test_labels_that_a_model_does_not_know_are_noted_or_refused(tmp_path: Path) -> None:
    truth = [COLOURS[n % 3] for n in range(9)]
    data = written(tmp_path / "x.jsonl", {"text": [f"t{n}" for n in range(9)], "label": truth})
    suite = TaskSuite()
    result = measure(suite, suite.read(data), classified("a", ["red"] * 9, ["red", "violet"]), "x")
    assert any("a: does not know blue, green of the 3 labels" in note for note in result.notes)
    with pytest.raises(
        UnsupportedEvaluation,
        match=r"a: its task 'classify' predicts ham, spam, but the examples have blue, green, red: they have no",
    ):
        measure(suite, suite.read(data), classified("a", ["ham"] * 9, ["ham", "spam"]), "x")
    tagged = written(tmp_path / "y.jsonl", {"tokens": [["x"]] * 9, "tags": [["B-loc"]] * 9})
    known = TaskMetadata(labels=("O", "B-per", "I-per"), counts=(1,) * 3)
    system = Fixed("b", SequenceTagging(), [{"prediction": ["O"], "spans": []}] * 9, known)
    with pytest.raises(UnsupportedEvaluation, match="the examples have loc: they have no label in common"):
        measure(suite, suite.read(tagged), system, "x")


def test_systems_that_cannot_be_compared_have_an_empty_row(tmp_path: Path) -> None:
    rows = {"text": [f"t{n}" for n in range(9)], "label": [COLOURS[n % 3] for n in range(9)]}
    data = written(tmp_path / "x.jsonl", {**rows, "score": list(range(9))})
    suite = TaskSuite()
    items = suite.read(data)
    measure(suite, items, classified("a", rows["label"]), "x")
    number = Fixed("b", TextRegression(), [{"prediction": float(n)} for n in range(9)], TaskMetadata())
    with pytest.raises(
        UnsupportedEvaluation, match=r"b: predicts score \('regress'\), but a predicts label \('classify'\)"
    ):
        measure(suite, items, number, "x")
    assert measure(suite, suite.read(data), number, "x").metrics["spearman"].value == pytest.approx(1)
    several = Fixed(
        "c",
        MultilabelClassification(),
        [{"prediction": [one]} for one in rows["label"]],
        TaskMetadata(labels=tuple(COLOURS)),
    )
    with pytest.raises(
        UnsupportedEvaluation, match=r"c: predicts label \('multilabel'\), but a predicts .* has other metrics"
    ):
        measure(suite, items, several, "x")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of colours in three splits."""
    folder = tmp_path_factory.mktemp("colours") / "set"
    form = TextClassification().schemas[0]
    for seed, (split, count) in enumerate((("train", 60), ("dev", 20), ("test", 30))):
        written(folder / f"{split}.jsonl", rows_of(form, count, seed))
    return folder


@pytest.fixture(scope="module")
def classes(tuned: Callable[..., Path]) -> Path:
    return tuned(TextClassification(), rows_of(TextClassification().schemas[0], 12))


def test_the_command_from_rows_to_tables(
    classes: Path, tuned: Callable[..., Path], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tuned(find_part(Task, "cloze")(), rows_of(TextClassification().schemas[0], 12))  # type: ignore[type-abstract]
    models = [f"{classes},name=head", f"{other},name=gap", "tfidf"]
    out = [tmp_path / f"table.{ending}" for ending in ("csv", "html", "md", "json")]
    arguments = ["evaluate", "task", str(folder)]
    arguments += [word for model in models for word in ("--model", model)]
    assert encodery([*arguments, *(word for path in out for word in ("--out", str(path)))]) == 0
    shown = capsys.readouterr().out
    assert "task set, 30 items" in shown
    assert "30 test rows" in shown
    assert "TF-IDF: logistic regression on the 60 training rows" in shown
    for name in ("f1", "accuracy", "mcc", "to the first", "±", "tokens/s", "padding", "dropped"):
        assert name in shown
    lines = {line["system"]: line for line in csv.DictReader(out[0].read_text().splitlines())}
    assert list(lines) == ["head", "gap", "TF-IDF"]
    assert float(lines["TF-IDF"]["value"]) == float(lines["TF-IDF"]["f1"]) > 0.9
    assert (
        float(lines["gap"]["accuracy_low"]) <= float(lines["gap"]["accuracy"]) <= float(lines["gap"]["accuracy_high"])
    )
    assert 0 < float(lines["TF-IDF"]["mcc_p"]) <= 1
    assert lines["head"]["mcc_p"] == ""
    predictions = Predictor.from_model(load_model(classes)).predict(
        rows_of(TextClassification().schemas[0], 30, 2)["text"]
    )
    truth = rows_of(TextClassification().schemas[0], 30, 2)["label"]
    expected = np.mean([a["prediction"] == b for a, b in zip(predictions.answers, truth, strict=True)])
    assert float(lines["head"]["accuracy"]) == pytest.approx(expected)
    assert int(lines["head"]["tokens"]) == predictions.tokens.sum()
    assert "<td>mcc</td>" in out[1].read_text()
    assert "| mcc | TF-IDF |" in out[2].read_text()
    assert json.loads(out[3].read_text())["rows"][2]["compared"]["mcc"]["p"] == float(lines["TF-IDF"]["mcc_p"])


def test_models_without_a_head_and_unsuitable_rows_are_refused(
    run: Path, classes: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert encodery(["evaluate", "task", str(folder), "--model", str(run)]) == 2
    assert "has no task head; train one with `encodery finetune TASK DATA --model" in " ".join(
        capsys.readouterr().err.split()
    )
    pairs = written(tmp_path / "p.jsonl", {"sentence1": ["a"] * 9, "sentence2": ["b"] * 9, "score": list(range(9))})
    assert encodery(["evaluate", "task", str(pairs), "--model", f"{classes},name=mine"]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert "mine: its task is 'classify'" in shown
    assert "no column matches" in shown
    assert encodery(["evaluate", "task", str(folder / "test.jsonl"), "--model", "tfidf"]) == 2
    assert "needs a train split" in capsys.readouterr().err
    assert encodery(["evaluate", "task", str(pairs), "--model", "tfidf"]) == 2
    assert "TF-IDF: it learns classes of texts. " in capsys.readouterr().err
    assert encodery(["evaluate", "task", str(folder), "--model", "bm25"]) == 2
    assert "BM25: has no task head" in capsys.readouterr().err


def test_a_head_that_is_not_used_is_noted(classes: Path, folder: Path, run: Path, tmp_path: Path) -> None:
    systems = [ModelSystem(path=str(classes), name="mine"), TFIDFSystem(), ModelSystem(path=str(run))]
    rows = compare(systems, [SuiteTask(suite=ClassificationSuite(), data=folder)]).rows
    assert rows[0].result is not None
    [note] = rows[0].result.notes
    assert "mine: its embeddings are probed; its head for the task 'classify' is not used" in note
    assert "`encodery evaluate task`" in note
    assert all(row.result is not None and not row.result.notes for row in rows[1:])
    scored = {"a": [f"cat {n}" for n in range(9)], "b": ["dog"] * 9, "score": list(range(9))}
    [row] = compare(systems[:1], [SuiteTask(suite=STSSuite(), data=written(tmp_path / "s.jsonl", scored))]).rows
    assert row.result is not None
    assert "its embeddings are compared" in row.result.notes[0]
