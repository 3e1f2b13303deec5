"""Labelled data of a task by roles: train, dev and test rows, and messages about what was read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from encodery.base.errors import EmptyInput, InputError, nearest
from encodery.finetune.heads.labels import has_soft_labels
from encodery.finetune.settings import FinetuneSettings
from encodery.finetune.task_roles import assign_task_roles
from encodery.finetune.task_types import Rows
from encodery.finetune.tasks import Task
from encodery.rows.check import check, complete_rows
from encodery.rows.labelled import SPLITS, assign_by_split, has_classes, hold_out
from encodery.rows.read import read_tables
from encodery.rows.table import Table

MIN_TEST_ROWS = 20
"""If fewer test rows than this would be held out, none are."""


@dataclass(frozen=True, eq=False)
class LabelledData:
    """Columns by role. `notes`: messages about what was read. `fingerprint`: a digest of all rows."""

    train: Rows
    dev: Rows | None
    test: Rows | None
    fingerprint: str
    notes: list[str] = field(default_factory=list)

    @classmethod
    def from_splits(
        cls, task: Task, splits: Mapping[str, Mapping[str, Sequence[Any]]], notes: Sequence[str] = ()
    ) -> LabelledData:
        """Make the data of columns by role for train, dev and test, of which train is required.

        Raises `EmptyInput` without training rows, `InputError` for missing roles.
        """
        rows: dict[str, Rows] = {}
        for name, columns in splits.items():
            schema = task.schema_for(list(columns), True)
            rows[name] = {role: columns[role] for role in (*schema.inputs, *schema.targets)}
        if not num_rows(rows.get("train", {})):
            raise EmptyInput("There are no training rows.")
        kept = {name: own if num_rows(own) else None for name, own in rows.items()}
        return cls(rows["train"], kept.get("dev"), kept.get("test"), _fingerprint(rows), list(notes))


def read_data(path: str | Path, settings: FinetuneSettings) -> LabelledData:
    """Read the data at a path, assign roles to columns and hold out rows for missing splits; the same at every call.

    Raises `InputError` naming file, column and row of what cannot be used, `EmptyInput` without training rows.
    """
    task = settings.task

    def assign(table: Table) -> Any:
        return assign_task_roles(task, table, settings.columns, True)

    read = {name: table for name, table in read_tables(path).items() if name in SPLITS}
    labelled = assign_by_split(read, assign, optional=("test",))
    notes, tables = labelled.notes, dict[str, Table]()
    for name, table in labelled.tables.items():
        roles = labelled.roles[name].columns
        targets = task.schema_for(list(roles), True).targets
        numeric = [role for role in targets if role == "score"]
        missing = "drop" if settings.missing == "drop" else "error"
        tables[name], dropped = complete_rows(table.select(roles), targets, missing, numeric)  # type: ignore[arg-type]
        notes += [f"{name}: {len(dropped):,} rows without an answer are left out"] if len(dropped) else []
    if not len(tables.get("train", ())):
        raise EmptyInput(f"{path}: there are no training rows.")
    schema = task.schema_for(tables["train"].names, True)
    target = schema.targets[0]
    label = target if task.chart == "classes" and not has_soft_labels(tables["train"][target]) else None
    tables, held_out = hold_out(tables, schema.group_by or schema.inputs, _fractions(tables, settings, notes), label)
    notes += held_out
    tables = {name: tables[name] for name in SPLITS if name in tables}
    notes.append(", ".join(f"{name} {len(table):,}" for name, table in tables.items()) + " rows")
    splits = {name: {role: list(table[role]) for role in table.names} for name, table in tables.items()}
    # A single class is refused by the task itself: `cloze` may know others by their words.
    classes = label is not None and has_classes(tables["train"], label)
    findings = check(tables, schema.inputs, target, classes, _item_labels(task, splits))
    return LabelledData.from_splits(task, splits, [*notes, *findings.messages])


def _fractions(tables: Mapping[str, Table], settings: FinetuneSettings, notes: list[str]) -> dict[str, float]:
    """Return the fractions of the training rows to hold out; a note is added if there are too few for a test split."""
    rows, fractions = len(tables["train"]), {"dev": settings.heldout, "test": settings.test}
    if "test" not in tables and settings.test and rows * settings.test < MIN_TEST_ROWS:
        fractions["test"] = 0.0
        notes.append(f"no test rows are held out: of {rows:,} rows they would be fewer than {MIN_TEST_ROWS}")
    return fractions


def read_inputs(path: str | Path, task: Task, columns: Mapping[str, str], split: str | None = None) -> Rows:
    """Read what a task needs, without answers, of the rows of a file or of one `split`. Raises `InputError`."""
    tables = read_tables(path)
    if split is not None and split not in tables:
        raise InputError(f"{path}: has no split '{split}'.{nearest(split, tables)} It has {', '.join(tables)}.")
    if split is None and len(tables) != 1:
        raise InputError(f"{path}: has the splits {', '.join(tables)}; name the file of one, or --split.")
    table = next(iter(tables.values())) if split is None else tables[split]
    roles = assign_task_roles(task, table, columns, False)
    return {role: list(table[column]) for role, column in roles.columns.items()}


def num_rows(rows: Mapping[str, Sequence[Any]]) -> int:
    """Return R of columns by role."""
    return len(next(iter(rows.values()))) if rows else 0


def _item_labels(task: Task, splits: Mapping[str, Rows]) -> dict[str, list[str]]:
    """Return split → the label of every item in its rows, in order, for a task whose answers are sets."""
    item_sets = {name: task.answer_items(rows) for name, rows in splits.items()}
    return {
        name: sorted(str(item[-1]) for items in sets for item in items)
        for name, sets in item_sets.items()
        if sets is not None
    }


def _fingerprint(splits: Mapping[str, Rows]) -> str:
    """Return 32 hexadecimal digits of a digest of all rows."""
    digest = hashlib.sha256()
    for name in SPLITS:
        for role, values in sorted(splits.get(name, {}).items()):
            digest.update(f"{name}\0{role}\0{len(values)}\0".encode())
            for value in values:
                digest.update(json.dumps(value, default=str, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]
