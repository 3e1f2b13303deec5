"""The answers of fine-tuned models (`encodery finetune`) on labelled rows, by the figures of their task.

Classes, several labels, tags, spans, numbers, choices: whatever the task of a run says of rows. Systems are compared
where they answer the same: the first one that is measured says what that is. Word counts (TF-IDF) learn classes of
texts from the training rows, as the baseline. Shapes: N rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from encodery.base.errors import InputError, SettingsError, nearest
from encodery.base.parts import name_of
from encodery.evaluate import linear
from encodery.evaluate.suites import MetricValue, Suite
from encodery.evaluate.suites._answered import labels_of, task_metrics
from encodery.evaluate.suites._rows import split_name
from encodery.evaluate.systems import OpenSystem, UnsupportedEvaluation
from encodery.finetune.heads.labels import label_names
from encodery.finetune.predict import Predictor
from encodery.finetune.task_roles import assign_task_roles
from encodery.finetune.task_types import Answer, Rows, TaskMetadata
from encodery.finetune.tasks import Task
from encodery.finetune.tasks.classify import TextClassification
from encodery.rows.check import complete_rows
from encodery.rows.read import read_tables
from encodery.rows.table import Table

AT_ONCE = 4096  # rows whose outputs are held
SHOWN = 5  # labels named in a sentence
TRAIN = "train"


@dataclass(eq=False)
class TaskRows:
    """Rows by split, `split` those that are judged; `columns` of the answer and `figures` as the system `first`
    measured has them, whose task is `task`."""

    data: Path
    tables: Mapping[str, Table]
    split: str
    rows: int
    first: str = ""
    task: str = ""
    columns: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.rows


@dataclass(frozen=True, kw_only=True)
class TaskSuite(Suite):
    """`columns`: role -> column, guessed where not told, as `encodery finetune` does. `split`: by default test, else
    dev, else what there is. `missing`: rows without an answer are an error, or dropped. `figure`: the one by which
    systems are compared; by default the goal of their task."""

    columns: dict[str, str] = field(default_factory=dict)
    split: str = ""
    missing: Literal["error", "drop"] = "error"
    metric: str = ""

    @property
    def main_metric(self) -> str:
        return self.metric

    def read(self, data: Path) -> TaskRows:
        tables = read_tables(data)
        split = split_name(data, tables, self.split)
        return TaskRows(data, tables, split, len(tables[split]))

    def measure(self, items: TaskRows, system: OpenSystem) -> dict[str, MetricValue]:
        task: Task = TextClassification()
        predictor = None if system.trains_classifier else system.predictor()
        if predictor is not None:
            task = predictor.task
        try:
            rows, columns = self._rows(items, items.split, task, system)
            self._same(items, system, task, columns, ())
            if predictor is None:
                answers, known = self._learnt(items, task, rows, system)
            else:
                answers, known = _told(predictor, rows, system), predictor.metadata
                _labels_known(task, rows, known, system)
            figures = task_metrics(task, answers, rows, known)
        except UnsupportedEvaluation:
            raise
        except InputError as error:
            does = "learns classes of texts" if system.trains_classifier else f"its task is '{name_of(task)}'"
            raise UnsupportedEvaluation(f"{system.name}: {does}. {error}") from error
        self._same(items, system, task, columns, tuple(figures))
        return self._ordered(figures)

    def _rows(self, items: TaskRows, split: str, task: Task, system: OpenSystem) -> tuple[Rows, tuple[str, ...]]:
        """What the task reads and what is true, by role, and the columns of the latter. Raises `InputError`."""
        table = items.tables[split]
        roles = assign_task_roles(task, table, self.columns, True)
        form = task.schema_for(list(roles.columns), True)
        kept, gone = complete_rows(table.select(roles.columns), form.targets, self.missing)
        if split == items.split:
            items.rows = len(kept)
            left = f", {len(gone):,} without an answer left out" if len(gone) else ""
            system.notes.append(f"{items.data}: {len(kept):,} {split} rows{left}; {roles}")
            if split == TRAIN and system.training_data and Path(system.training_data).resolve() in _places(items.data):
                system.notes.append(
                    f"{system.name}: learnt from rows of {system.training_data}, by which it is judged here"
                )
        wanted = (*form.inputs, *form.targets)
        return {role: list(kept[role]) for role in wanted}, tuple(roles.columns[role] for role in form.targets)

    def _same(
        self, items: TaskRows, system: OpenSystem, task: Task, columns: tuple[str, ...], figures: tuple[str, ...]
    ) -> None:
        """Whether a system answers what the first one did. Raises `Incapable`."""
        if items.first and (columns != items.columns or (figures and figures != items.figures)):
            raise UnsupportedEvaluation(
                f"{system.name}: what it says of {' and '.join(columns)} ('{name_of(task)}') has other figures than "
                f"what {items.first} says of {' and '.join(items.columns)} ('{items.task}'); measure it by itself."
            )
        if figures:
            items.first, items.task = items.first or system.name, items.task or name_of(task)
            items.columns, items.figures = columns, figures

    def _learnt(self, items: TaskRows, task: Task, rows: Rows, system: OpenSystem) -> tuple[list[Answer], TaskMetadata]:
        """Classes by logistic regression on vectors of the training rows."""
        if TRAIN not in items.tables or items.split == TRAIN:
            raise UnsupportedEvaluation(
                f"{system.name}: learns from training rows, and {items.data} has none beside those judged."
            )
        train, _ = self._rows(items, TRAIN, task, system)
        system.fit(train["text"])
        vectors, asked = system.encode(train["text"]), system.encode(rows["text"])
        fitted = linear.fit(vectors, np.array(label_names(train["label"])))
        labels = [str(label) for label in fitted.classes_]
        system.notes.append(f"{system.name}: logistic regression on the {len(train['text']):,} training rows")
        return [_answer(labels, row) for row in fitted.predict_proba(asked)], TaskMetadata(labels=tuple(labels))

    def _ordered(self, figures: dict[str, MetricValue]) -> dict[str, MetricValue]:
        """The figures, the main one first."""
        if not self.metric:
            return figures
        if self.metric not in figures:
            raise SettingsError(
                f"figure = {self.metric}: is none of {', '.join(figures)}.{nearest(self.metric, figures)}"
            )
        return {self.metric: figures[self.metric], **figures}


def _places(data: Path) -> tuple[Path, Path]:
    """Where rows lie: the file or folder, and the folder it is in."""
    return data.resolve(), data.resolve().parent


def _told(predictor: Predictor, rows: Rows, system: OpenSystem) -> list[Answer]:
    """What a model says of rows, some at a time."""
    inputs = predictor.task.schema_for(list(rows), True).inputs
    found: list[Answer] = []
    for start in range(0, len(rows[inputs[0]]), AT_ONCE):
        with system.counters.clock():
            said = predictor.predict({role: rows[role][start : start + AT_ONCE] for role in inputs})
        system.counters.add(len(said.answers), int(said.tokens.sum()), 0, int(said.dropped_tokens.sum()))
        found += said.answers
    return found


def _labels_known(task: Task, rows: Rows, known: TaskMetadata, system: OpenSystem) -> None:
    """Remarks on labels a model cannot say. Raises `Incapable` where it can say none of those the rows have."""
    truth = labels_of(task, rows)
    if truth is None or "types" in rows:
        return
    said = [str(label) for label in known.labels or known.types]
    spoken = {*said, *(label[2:] for label in said if label[:2] in ("B-", "I-"))}
    strange = sorted(truth - spoken)
    if truth and len(strange) == len(truth):
        raise UnsupportedEvaluation(
            f"{system.name}: its task '{name_of(task)}' says {_some(said)}; the rows have {_some(strange)}: no label "
            "is in both."
        )
    if strange:
        system.notes.append(f"{system.name}: does not know {_some(strange)} of the rows' {len(truth)} labels")


def _answer(labels: Sequence[str], chances: np.ndarray) -> dict[str, Any]:
    """As `classify` has it."""
    best = int(chances.argmax())
    return {
        "prediction": labels[best],
        "probability": float(chances[best]),
        "probabilities": dict(zip(labels, chances.tolist(), strict=True)),
    }


def _some(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - SHOWN:,} more" if len(labels) > SHOWN else ""
    return ", ".join(labels[:SHOWN]) + more
