"""Evaluate fine-tuned models (`encodery finetune`) on labelled examples with the metrics of their task.

Tasks predict classes, several labels, tags, spans, numbers or choices. Systems are comparable if they predict the same
columns; the first system decides which. TF-IDF learns classes of texts from the train split, as the baseline. Shapes: N
examples.
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
from encodery.evaluate.metric_value import MetricValue
from encodery.evaluate.suites import Suite
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

BATCH_ROWS = 4096  # Examples whose outputs are in memory.
MAX_SHOWN = 5  # Labels named in a message.
TRAIN = "train"


@dataclass(eq=False)
class TaskRows:
    """Examples by split, of which `split` is evaluated.

    `first` is the first system that was evaluated; `task`, `columns` and `metrics` are its task, the columns that it
    predicts and the names of its metrics.
    """

    data: Path
    tables: Mapping[str, Table]
    split: str
    rows: int
    first: str = ""
    task: str = ""
    columns: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.rows


@dataclass(frozen=True, kw_only=True)
class TaskSuite(Suite):
    """Use it to compare fine-tuned models of one task.

    Attributes:
        columns: role -> column; others are assigned as by `encodery finetune`.
        split: empty for test, else dev, else the first split.
        missing: whether examples without a label are an error or dropped.
        metric: the metric by which systems are compared; empty for the selection metric of their task.
    """

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
            self._check_same(items, system, task, columns, ())
            if predictor is None:
                answers, known = self._train_baseline(items, task, rows, system)
            else:
                answers, known = _predict(predictor, rows, system), predictor.metadata
                _check_labels(task, rows, known, system)
            metrics = task_metrics(task, answers, rows, known)
        except UnsupportedEvaluation:
            raise
        except InputError as error:
            reason = "it learns classes of texts" if system.trains_classifier else f"its task is '{name_of(task)}'"
            raise UnsupportedEvaluation(f"{system.name}: {reason}. {error}") from error
        self._check_same(items, system, task, columns, tuple(metrics))
        return self._ordered(metrics)

    def _rows(self, items: TaskRows, split: str, task: Task, system: OpenSystem) -> tuple[Rows, tuple[str, ...]]:
        """Return the inputs and labels of a task by role, and the columns of the labels. Raises `InputError`."""
        table = items.tables[split]
        roles = assign_task_roles(task, table, self.columns, True)
        schema = task.schema_for(list(roles.columns), True)
        kept, dropped = complete_rows(table.select(roles.columns), schema.targets, self.missing)
        if split == items.split:
            items.rows = len(kept)
            note = f", {len(dropped):,} without a label left out" if len(dropped) else ""
            system.notes.append(f"{items.data}: {len(kept):,} {split} rows{note}; {roles}")
            if (
                split == TRAIN
                and system.training_data
                and Path(system.training_data).resolve() in _locations(items.data)
            ):
                system.notes.append(
                    f"{system.name}: was trained on {system.training_data}, on which it is evaluated here"
                )
        needed = (*schema.inputs, *schema.targets)
        return {role: list(kept[role]) for role in needed}, tuple(roles.columns[role] for role in schema.targets)

    def _check_same(
        self, items: TaskRows, system: OpenSystem, task: Task, columns: tuple[str, ...], metrics: tuple[str, ...]
    ) -> None:
        """Raise `UnsupportedEvaluation` if a system predicts something else than the first one."""
        if items.first and (columns != items.columns or (metrics and metrics != items.metrics)):
            raise UnsupportedEvaluation(
                f"{system.name}: predicts {' and '.join(columns)} ('{name_of(task)}'), but {items.first} predicts "
                f"{' and '.join(items.columns)} ('{items.task}'), which has other metrics. Evaluate it separately."
            )
        if metrics:
            items.first, items.task = items.first or system.name, items.task or name_of(task)
            items.columns, items.metrics = columns, metrics

    def _train_baseline(
        self, items: TaskRows, task: Task, rows: Rows, system: OpenSystem
    ) -> tuple[list[Answer], TaskMetadata]:
        """Predict classes by logistic regression on the train split."""
        if TRAIN not in items.tables or items.split == TRAIN:
            raise UnsupportedEvaluation(
                f"{system.name}: needs a train split, and {items.data} has none besides the evaluated rows."
            )
        train, _ = self._rows(items, TRAIN, task, system)
        system.fit(train["text"])
        train_vectors, vectors = system.encode(train["text"]), system.encode(rows["text"])
        fitted = linear.fit(train_vectors, np.array(label_names(train["label"])))
        labels = [str(label) for label in fitted.classes_]
        system.notes.append(f"{system.name}: logistic regression on the {len(train['text']):,} training rows")
        return [_answer(labels, row) for row in fitted.predict_proba(vectors)], TaskMetadata(labels=tuple(labels))

    def _ordered(self, metrics: dict[str, MetricValue]) -> dict[str, MetricValue]:
        """Return the metrics, the main one first."""
        if not self.metric:
            return metrics
        if self.metric not in metrics:
            raise SettingsError(
                f"metric = {self.metric}: must be one of {', '.join(metrics)}.{nearest(self.metric, metrics)}"
            )
        return {self.metric: metrics[self.metric], **metrics}


def _locations(data: Path) -> tuple[Path, Path]:
    """Return the file or folder of the data, and the folder that contains it."""
    return data.resolve(), data.resolve().parent


def _predict(predictor: Predictor, rows: Rows, system: OpenSystem) -> list[Answer]:
    """Return the predictions of a model, in blocks of examples."""
    inputs = predictor.task.schema_for(list(rows), True).inputs
    answers: list[Answer] = []
    for start in range(0, len(rows[inputs[0]]), BATCH_ROWS):
        with system.counters.clock():
            output = predictor.predict({role: rows[role][start : start + BATCH_ROWS] for role in inputs})
        system.counters.add(len(output.answers), int(output.tokens.sum()), 0, int(output.dropped_tokens.sum()))
        answers += output.answers
    return answers


def _check_labels(task: Task, rows: Rows, known: TaskMetadata, system: OpenSystem) -> None:
    """Note labels that a model does not know. Raises `UnsupportedEvaluation` if it knows none of the labels."""
    truth = labels_of(task, rows)
    if truth is None or "types" in rows:
        return
    labels = [str(label) for label in known.labels or known.types]
    predictable = {*labels, *(label[2:] for label in labels if label[:2] in ("B-", "I-"))}
    unknown = sorted(truth - predictable)
    if truth and len(unknown) == len(truth):
        raise UnsupportedEvaluation(
            f"{system.name}: its task '{name_of(task)}' predicts {_listed(labels)}, but the examples have "
            f"{_listed(unknown)}: they have no label in common."
        )
    if unknown:
        system.notes.append(f"{system.name}: does not know {_listed(unknown)} of the {len(truth)} labels")


def _answer(labels: Sequence[str], probabilities: np.ndarray) -> dict[str, Any]:
    """Return a prediction in the format of the task `classify`."""
    best = int(probabilities.argmax())
    return {
        "prediction": labels[best],
        "probability": float(probabilities[best]),
        "probabilities": dict(zip(labels, probabilities.tolist(), strict=True)),
    }


def _listed(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - MAX_SHOWN:,} more" if len(labels) > MAX_SHOWN else ""
    return ", ".join(labels[:MAX_SHOWN]) + more
