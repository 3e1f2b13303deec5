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
from encodery.evaluate.suites import Figure, Suite
from encodery.evaluate.suites._answered import answered, labels_of
from encodery.evaluate.suites._rows import judged_on
from encodery.evaluate.systems import Incapable, Opened
from encodery.finetune.predict import Predictor
from encodery.finetune.roles import guess
from encodery.finetune.tasks import Answer, Known, Rows, Task
from encodery.finetune.tasks._labels import names_of
from encodery.finetune.tasks.classify import Classify
from encodery.rows.check import present
from encodery.rows.read import read
from encodery.rows.table import Table

AT_ONCE = 4096  # rows whose outputs are held
SHOWN = 5  # labels named in a sentence
TRAIN = "train"


@dataclass(eq=False)
class Judged:
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
class Answers(Suite):
    """`columns`: role -> column, guessed where not told, as `encodery finetune` does. `split`: by default test, else
    dev, else what there is. `missing`: rows without an answer are an error, or dropped. `figure`: the one by which
    systems are compared; by default the goal of their task."""

    columns: dict[str, str] = field(default_factory=dict)
    split: str = ""
    missing: Literal["error", "drop"] = "error"
    figure: str = ""

    @property
    def main(self) -> str:
        return self.figure

    def read(self, data: Path) -> Judged:
        tables = read(data)
        split = judged_on(data, tables, self.split)
        return Judged(data, tables, split, len(tables[split]))

    def measure(self, items: Judged, system: Opened) -> dict[str, Figure]:
        task: Task = Classify()
        predictor = None if system.learns else system.predictor()
        if predictor is not None:
            task = predictor.task
        try:
            rows, columns = self._rows(items, items.split, task, system)
            self._same(items, system, task, columns, ())
            if predictor is None:
                answers, known = self._learnt(items, task, rows, system)
            else:
                answers, known = _told(predictor, rows, system), predictor.known
                _labels_known(task, rows, known, system)
            figures = answered(task, answers, rows, known)
        except Incapable:
            raise
        except InputError as error:
            does = "learns classes of texts" if system.learns else f"its task is '{name_of(task)}'"
            raise Incapable(f"{system.name}: {does}. {error}") from error
        self._same(items, system, task, columns, tuple(figures))
        return self._ordered(figures)

    def _rows(self, items: Judged, split: str, task: Task, system: Opened) -> tuple[Rows, tuple[str, ...]]:
        """What the task reads and what is true, by role, and the columns of the latter. Raises `InputError`."""
        table = items.tables[split]
        roles = guess(task, table, self.columns, True)
        form = task.form(list(roles.columns), True)
        kept, gone = present(table.renamed(roles.columns), form.targets, self.missing)
        if split == items.split:
            items.rows = len(kept)
            left = f", {len(gone):,} without an answer left out" if len(gone) else ""
            system.remarks.append(f"{items.data}: {len(kept):,} {split} rows{left}; {roles}")
            if split == TRAIN and system.data and Path(system.data).resolve() in _places(items.data):
                system.remarks.append(f"{system.name}: learnt from rows of {system.data}, by which it is judged here")
        wanted = (*form.inputs, *form.targets)
        return {role: list(kept[role]) for role in wanted}, tuple(roles.columns[role] for role in form.targets)

    def _same(
        self, items: Judged, system: Opened, task: Task, columns: tuple[str, ...], figures: tuple[str, ...]
    ) -> None:
        """Whether a system answers what the first one did. Raises `Incapable`."""
        if items.first and (columns != items.columns or (figures and figures != items.figures)):
            raise Incapable(
                f"{system.name}: what it says of {' and '.join(columns)} ('{name_of(task)}') has other figures than "
                f"what {items.first} says of {' and '.join(items.columns)} ('{items.task}'); measure it by itself."
            )
        if figures:
            items.first, items.task = items.first or system.name, items.task or name_of(task)
            items.columns, items.figures = columns, figures

    def _learnt(self, items: Judged, task: Task, rows: Rows, system: Opened) -> tuple[list[Answer], Known]:
        """Classes by logistic regression on vectors of the training rows."""
        if TRAIN not in items.tables or items.split == TRAIN:
            raise Incapable(f"{system.name}: learns from training rows, and {items.data} has none beside those judged.")
        train, _ = self._rows(items, TRAIN, task, system)
        system.fit(train["text"])
        vectors, asked = system.encode(train["text"]), system.encode(rows["text"])
        fitted = linear.fit(vectors, np.array(names_of(train["label"])))
        labels = [str(label) for label in fitted.classes_]
        system.remarks.append(f"{system.name}: logistic regression on the {len(train['text']):,} training rows")
        return [_answer(labels, row) for row in fitted.predict_proba(asked)], {"labels": labels}

    def _ordered(self, figures: dict[str, Figure]) -> dict[str, Figure]:
        """The figures, the main one first."""
        if not self.figure:
            return figures
        if self.figure not in figures:
            raise SettingsError(
                f"figure = {self.figure}: is none of {', '.join(figures)}.{nearest(self.figure, figures)}"
            )
        return {self.figure: figures[self.figure], **figures}


def _places(data: Path) -> tuple[Path, Path]:
    """Where rows lie: the file or folder, and the folder it is in."""
    return data.resolve(), data.resolve().parent


def _told(predictor: Predictor, rows: Rows, system: Opened) -> list[Answer]:
    """What a model says of rows, some at a time."""
    inputs = predictor.task.form(list(rows), True).inputs
    found: list[Answer] = []
    for start in range(0, len(rows[inputs[0]]), AT_ONCE):
        with system.counters.clock():
            said = predictor.predict({role: rows[role][start : start + AT_ONCE] for role in inputs})
        system.counters.add(len(said.answers), int(said.tokens.sum()), 0, int(said.dropped.sum()))
        found += said.answers
    return found


def _labels_known(task: Task, rows: Rows, known: Known, system: Opened) -> None:
    """Remarks on labels a model cannot say. Raises `Incapable` where it can say none of those the rows have."""
    truth = labels_of(task, rows)
    if truth is None or "types" in rows:
        return
    said = [str(label) for label in known.get("labels", known.get("types", ()))]
    spoken = {*said, *(label[2:] for label in said if label[:2] in ("B-", "I-"))}
    strange = sorted(truth - spoken)
    if truth and len(strange) == len(truth):
        raise Incapable(
            f"{system.name}: its task '{name_of(task)}' says {_some(said)}; the rows have {_some(strange)}: no label "
            "is in both."
        )
    if strange:
        system.remarks.append(f"{system.name}: does not know {_some(strange)} of the rows' {len(truth)} labels")


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
