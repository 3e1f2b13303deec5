"""Labelled data by roles: train, dev and test rows of a task, and what was found in them, in words."""

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
from encodery.finetune.tasks import Rows, RowSchema, Task
from encodery.rows.check import check, complete_rows
from encodery.rows.read import read_tables
from encodery.rows.split import fill_missing_splits
from encodery.rows.table import Table

SPLITS = ("train", "dev", "test")
MIN_TEST_ROWS = 20


@dataclass(frozen=True, eq=False)
class LabelledData:
    """Columns by role; `notes`: what was guessed and found; `fingerprint` differs where any row does."""

    train: Rows
    dev: Rows | None
    test: Rows | None
    fingerprint: str
    notes: list[str] = field(default_factory=list)

    @classmethod
    def from_splits(
        cls, task: Task, splits: Mapping[str, Mapping[str, Sequence[Any]]], notes: Sequence[str] = ()
    ) -> LabelledData:
        """Of the splits train, dev and test, of which the first must be there.

        Raises `EmptyInput` without training rows, `InputError` for roles that lack.
        """
        found: dict[str, Rows] = {}
        for name, columns in splits.items():
            form = task.schema_for(list(columns), True)
            found[name] = {role: columns[role] for role in (*form.inputs, *form.targets)}
        if not num_rows(found.get("train", {})):
            raise EmptyInput("There are no rows to learn from.")
        kept = {name: rows if num_rows(rows) else None for name, rows in found.items()}
        return cls(found["train"], kept.get("dev"), kept.get("test"), _fingerprint(found), list(notes))


def read_data(path: str | Path, settings: FinetuneSettings) -> LabelledData:
    """The data at a path, the same at every call: roles of columns, a held-out share where there are no dev rows.

    Raises `InputError` naming file, column and row of what cannot be used, `EmptyInput` without training rows.
    """
    task, notes = settings.task, list[str]()
    tables: dict[str, Table] = {}
    for name, table in read_tables(path).items():
        if name not in SPLITS:
            continue
        try:
            roles = assign_task_roles(task, table, settings.columns, True)
        except InputError:
            if name != "test":
                raise
            notes.append("test: has no answers and is not judged")
            continue
        notes += [note for note in (*table.warnings, f"columns: {roles}") if note not in notes]
        form = task.schema_for(list(roles.columns), True)
        named = table.select(roles.columns)
        numeric = [role for role in form.targets if role == "score"]
        tables[name], gone = complete_rows(
            named, form.targets, "drop" if settings.missing == "drop" else "error", numeric
        )
        notes += [f"{name}: {len(gone):,} rows without an answer are left out"] if len(gone) else []
    if not len(tables.get("train", ())):
        raise EmptyInput(f"{path}: there are no training rows.")
    form = task.schema_for(tables["train"].names, True)
    label = (
        form.targets[0] if task.chart == "classes" and not has_soft_labels(tables["train"][form.targets[0]]) else None
    )
    tables, told = _set_apart(tables, form, label, settings)
    notes += told
    tables = {name: tables[name] for name in SPLITS if name in tables}
    notes.append(", ".join(f"{name} {len(table):,}" for name, table in tables.items()) + " rows")
    splits = {name: {role: list(table[role]) for role in table.names} for name, table in tables.items()}
    return LabelledData.from_splits(task, splits, [*notes, *_findings(tables, form, label, _labels(task, splits))])


def _set_apart(
    tables: Mapping[str, Table], form: RowSchema, label: str | None, settings: FinetuneSettings
) -> tuple[dict[str, Table], list[str]]:
    """The tables with dev and test rows taken out of training where there are none, and that in words."""
    kept, count = " and ".join(form.group_by) or "text", len(tables["train"])
    shares, notes = {"dev": settings.heldout, "test": settings.test}, list[str]()
    if "test" not in tables and settings.test and count * settings.test < MIN_TEST_ROWS:
        shares["test"] = 0.0
        notes.append(f"no test rows are set apart: of {count:,} rows they would be fewer than {MIN_TEST_ROWS}")
    missing = [name for name, share in shares.items() if name not in tables and share]
    if not missing:
        return dict(tables), notes
    whole = {"train": 1 - sum(shares[name] for name in missing), **{name: shares[name] for name in missing}}
    found = fill_missing_splits(tables, form.group_by or form.inputs, label, whole)
    for name in missing:
        if len(found.get(name, ())):
            notes.append(
                f"{len(found[name]):,} rows are held out as {name} rows, no {kept} of theirs stays in training"
            )
        else:
            found.pop(name, None)
            notes.append(f"no {name} rows are held out: too few rows differ in {kept}")
    return found, notes


def read_inputs(path: str | Path, task: Task, columns: Mapping[str, str], split: str | None = None) -> Rows:
    """What a task reads, of the rows of a file, or of its `split`; answers are not asked for. Raises `InputError`."""
    tables = read_tables(path)
    if split is not None and split not in tables:
        raise InputError(f"{path}: has no split '{split}'.{nearest(split, tables)} It has {', '.join(tables)}.")
    if split is None and len(tables) != 1:
        raise InputError(f"{path}: has the splits {', '.join(tables)}; give the file of one, or --split.")
    table = next(iter(tables.values())) if split is None else tables[split]
    return {
        role: list(table[column]) for role, column in assign_task_roles(task, table, columns, False).columns.items()
    }


def _findings(
    tables: Mapping[str, Table], form: RowSchema, label: str | None, members: Mapping[str, list[str]]
) -> list[str]:
    """Classes and their imbalance, empty and repeated texts, contradictions, dev and test rows that stand in training
    too, each with its places."""
    # A single class is for the task to refuse: `cloze` may know of others by their words.
    classes = label is not None and len(set(map(str, tables["train"][label]))) > 1
    return check(tables, form.inputs, form.targets[0], classes, members).messages


def _labels(task: Task, splits: Mapping[str, Rows]) -> dict[str, list[str]]:
    """Split -> every label in its rows, in order, where a row has a set of them."""
    found = {name: task.answer_items(rows) for name, rows in splits.items()}
    return {
        name: sorted(str(member[-1]) for some in sets for member in some)
        for name, sets in found.items()
        if sets is not None
    }


def num_rows(rows: Mapping[str, Sequence[Any]]) -> int:
    """R of columns."""
    return len(next(iter(rows.values()))) if rows else 0


def _fingerprint(splits: Mapping[str, Rows]) -> str:
    """32 hexadecimal digits over all rows."""
    digest = hashlib.sha256()
    for name in SPLITS:
        for role, values in sorted(splits.get(name, {}).items()):
            digest.update(f"{name}\0{role}\0{len(values)}\0".encode())
            for value in values:
                digest.update(json.dumps(value, default=str, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]
