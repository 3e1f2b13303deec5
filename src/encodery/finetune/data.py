"""Labelled data by roles: train, dev and test rows of a task, and what was found in them, in words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from encodery.base.errors import EmptyInput
from encodery.finetune.tasks import Rows, Task

SPLITS = ("train", "dev", "test")


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
        train = found.get("train", {})
        if not train or not len(next(iter(train.values()))):
            raise EmptyInput("There are no rows to learn from.")
        kept = {name: rows if len(next(iter(rows.values()))) else None for name, rows in found.items()}
        return cls(train, kept.get("dev"), kept.get("test"), _fingerprint(found), list(notes))


def _fingerprint(splits: Mapping[str, Rows]) -> str:
    """32 hexadecimal digits over all rows."""
    digest = hashlib.sha256()
    for name in SPLITS:
        for role, values in sorted(splits.get(name, {}).items()):
            digest.update(f"{name}\0{role}\0{len(values)}\0".encode())
            for value in values:
                digest.update(json.dumps(value, default=str, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]


def read(path: str, settings: Any) -> Data:
    """Placeholder."""
    raise NotImplementedError
