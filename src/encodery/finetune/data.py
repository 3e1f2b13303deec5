"""Labelled data by roles: train, dev and test rows of a task, and what was found in them, in words."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encodery.base.errors import EmptyInput, InputError
from encodery.base.parts import name_of
from encodery.finetune.roles import guess
from encodery.finetune.settings import FinetuneSettings
from encodery.finetune.tasks import Form, Rows, Task

if TYPE_CHECKING:
    from encodery.rows.table import Table

SPLITS = ("train", "dev", "test")
SHOWN = 5


@dataclass(frozen=True, eq=False)
class Data:
    """Columns by role; `notes`: what was guessed and found; `fingerprint` differs where any row does."""

    train: Rows
    dev: Rows | None
    test: Rows | None
    fingerprint: str
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, task: Task, splits: Mapping[str, Mapping[str, Sequence[Any]]], notes: Sequence[str] = ()) -> Data:
        """Of the splits train, dev and test, of which the first must be there.

        Raises `EmptyInput` without training rows, `InputError` for roles that lack.
        """
        found: dict[str, Rows] = {}
        for name, columns in splits.items():
            form = task.form(list(columns), True)
            found[name] = {role: columns[role] for role in (*form.inputs, *form.targets)}
        if not rows_in(found.get("train", {})):
            raise EmptyInput("There are no rows to learn from.")
        kept = {name: rows if rows_in(rows) else None for name, rows in found.items()}
        return cls(found["train"], kept.get("dev"), kept.get("test"), _fingerprint(found), list(notes))


def read(path: str | Path, settings: FinetuneSettings) -> Data:
    """The data at a path, the same at every call: roles of columns, a held-out share where there are no dev rows.

    Raises `InputError` naming file, column and row of what cannot be used, `EmptyInput` without training rows.
    """
    from encodery.rows.read import read as read_tables

    task, notes = settings.task, list[str]()
    splits: dict[str, dict[str, list[Any]]] = {}
    for name, table in read_tables(path).items():
        if name not in SPLITS:
            continue
        try:
            roles, said = guess(task, table.names, settings.columns, True)
        except InputError:
            if name != "test":
                raise
            notes.append("test: has no answers and is not judged")
            continue
        if f"columns: {said}" not in notes:
            notes.append(f"columns: {said}")
        splits[name], dropped = _present(table, roles, task, settings)
        notes += [f"{name}: {dropped:,} rows without an answer are left out"] if dropped else []
    if not rows_in(splits.get("train", {})):
        raise EmptyInput(f"{path}: there are no training rows.")
    if "dev" not in splits:
        splits["train"], splits["dev"] = held_out(splits["train"], task, settings.heldout)
        notes.append(f"{rows_in(splits['dev']):,} rows are held out as dev rows, no text of theirs stays in training")
    notes.append(", ".join(f"{name} {rows_in(rows):,}" for name, rows in splits.items()) + " rows")
    return Data.of(task, splits, [*notes, *findings(splits, task)])


def inputs(path: str | Path, task: Task, columns: Mapping[str, str]) -> Rows:
    """What a task reads, of the rows of a file; answers are not asked for. Raises `InputError`."""
    from encodery.rows.read import read as read_tables

    tables = read_tables(path)
    if len(tables) != 1:
        raise InputError(f"{path}: has the splits {', '.join(tables)}; give the file of one.")
    table = next(iter(tables.values()))
    roles, _ = guess(task, table.names, columns, False)
    return {role: list(table[column]) for role, column in roles.items()}


def held_out(rows: Mapping[str, list[Any]], task: Task, share: float) -> tuple[dict[str, list[Any]], ...]:
    """Training rows, and dev rows chosen by a hash of what is read: equal texts fall on one side. A class that would
    stand in dev rows only stays in training."""
    form = task.form(list(rows), True)
    dev = [_hash(rows, form, row) < share for row in range(rows_in(rows))]
    if "label" in form.targets and name_of(task) != "choice":
        labels = [str(label) for label in rows["label"]]
        left = {label for label, away in zip(labels, dev, strict=True) if not away}
        dev = [away and label in left for label, away in zip(labels, dev, strict=True)]
    return tuple(
        {role: [v for v, d in zip(values, dev, strict=True) if d is side] for role, values in rows.items()}
        for side in (False, True)
    )


def findings(splits: Mapping[str, Mapping[str, list[Any]]], task: Task) -> list[str]:
    """Classes and their imbalance, duplicates, contradictions, dev and test rows that stand in training too."""
    train = splits["train"]
    form = task.form(list(train), True)
    keys = {name: [_key(rows, form, row) for row in range(rows_in(rows))] for name, rows in splits.items()}
    notes = []
    if "label" in form.targets and isinstance(train["label"][0], str):
        counts = Counter(train["label"]).most_common()
        told = ", ".join(f"{label} {count:,}" for label, count in counts[:SHOWN])
        more = f", … {counts[-1][0]} {counts[-1][1]:,}" if len(counts) > SHOWN else ""
        notes.append(f"{len(counts)} classes: {told}{more}")
    counted = Counter(keys["train"])
    double = sum(count - 1 for count in counted.values())
    if double:
        said: dict[str, set[str]] = {}
        for key, answer in zip(keys["train"], train[form.targets[0]], strict=True):
            said.setdefault(key, set()).add(json.dumps(answer, default=str, sort_keys=True))
        apart = sum(len(answers) > 1 for answers in said.values())
        notes.append(
            f"train: {double:,} rows repeat another" + (f", {apart:,} texts have several answers" if apart else "")
        )
    for name in ("dev", "test"):
        leaked = sum(key in counted for key in keys.get(name, []))
        notes += [f"{name}: {leaked:,} rows stand in train too, figures flatter"] if leaked else []
    return notes


def rows_in(rows: Mapping[str, Sequence[Any]]) -> int:
    """R of columns."""
    return len(next(iter(rows.values()))) if rows else 0


def _present(
    table: Table, roles: Mapping[str, str], task: Task, settings: FinetuneSettings
) -> tuple[dict[str, list[Any]], int]:
    """The rows that have an answer, and how many have none. Raises `InputError` naming those, unless told to drop."""
    rows = {role: list(table[column]) for role, column in roles.items()}
    form = task.form(list(rows), True)
    lacking = [row for row in range(len(table)) if any(_is_missing(rows[role][row]) for role in form.targets)]
    if lacking and settings.missing != "drop":
        some = ", ".join(table.where(row) for row in lacking[:SHOWN]) + (", …" if len(lacking) > SHOWN else "")
        raise InputError(f"{len(lacking):,} rows have no answer: {some}. To leave them out: missing=drop.")
    gone = set(lacking)
    return {role: [v for row, v in enumerate(some) if row not in gone] for role, some in rows.items()}, len(lacking)


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _key(rows: Mapping[str, Sequence[Any]], form: Form, row: int) -> str:
    """What is read of a row, in lower case and with single spaces."""
    return " \0 ".join(" ".join(str(rows[role][row]).casefold().split()) for role in form.inputs)


def _hash(rows: Mapping[str, Sequence[Any]], form: Form, row: int) -> float:
    digest = hashlib.sha256(_key(rows, form, row).encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest()[:6], "big") / 2**48


def _fingerprint(splits: Mapping[str, Rows]) -> str:
    """32 hexadecimal digits over all rows."""
    digest = hashlib.sha256()
    for name in SPLITS:
        for role, values in sorted(splits.get(name, {}).items()):
            digest.update(f"{name}\0{role}\0{len(values)}\0".encode())
            for value in values:
                digest.update(json.dumps(value, default=str, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]
