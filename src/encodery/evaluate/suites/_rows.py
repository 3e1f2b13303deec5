"""Read the columns that a suite needs from one split of a labelled file or folder, and check every cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from encodery.base.errors import InputError, nearest
from encodery.rows.columns import NAMES, assign_roles
from encodery.rows.read import read_tables
from encodery.rows.table import Table

# Additional names of columns in evaluation data.
COLUMN_NAMES: Mapping[str, Sequence[str]] = {
    **NAMES,
    "text_a": (*NAMES["text_a"], "word1", "question1"),
    "text_b": (*NAMES["text_b"], "word2", "question2"),
    "label": (*NAMES["label"], "is_duplicate", "score"),
    "kind": ("phenomenon", "linguistics_term", "kind", "paradigm", "uid"),
    "prompt": ("prompt", "question", "sentence", "text"),
    "answers": (*NAMES["answers"], "obj_label"),
    "relation": ("relation", "predicate_id", "type"),
}
KINDS: Mapping[str, type | tuple[type, ...]] = {"score": float, "label": (str, int), "answers": (str, list)}


def read_split(data: Path, split: str) -> Table:
    """Return the rows of a split; if `split` is empty, of test, else dev, else the first one.

    Raises `InputError` naming file and line, and `EmptyInput`.
    """
    tables = read_tables(data)
    return tables[split_name(data, tables, split)]


def split_name(data: Path, tables: Mapping[str, Table], split: str) -> str:
    """Return the name of the split that is evaluated. Raises `InputError`."""
    if not split:
        return next(name for name in ("test", "dev", *tables) if name in tables)
    if split not in tables:
        raise InputError(f"{data}: has no split '{split}'.{nearest(split, tables)} Splits: {', '.join(tables)}.")
    return split


def read_columns(
    table: Table, required: Sequence[str], columns: Mapping[str, str], optional: Sequence[str] = ()
) -> dict[str, list[Any]]:
    """Return role -> cells of the required and the existing optional roles. Raises `InputError` naming the row."""
    roles = assign_roles(table, required, columns, optional, COLUMN_NAMES)
    return {role: _checked(table, name, KINDS.get(role, str)) for role, name in roles.columns.items()}


def _checked(table: Table, name: str, kind: type | tuple[type, ...]) -> list[Any]:
    return [_typed(cell, kind, table, number, name) for number, cell in enumerate(table[name])]


def _typed(cell: Any, kind: type | tuple[type, ...], table: Table, number: int, name: str) -> Any:
    if kind is float:
        try:
            value = float(cell)
        except (TypeError, ValueError):
            value = float("nan")
        if value != value:
            raise InputError(f"{table.location(number)}: '{name}' is {cell!r}, a number is needed.")
        return value
    if not isinstance(cell, kind) or (cell == "" and kind is not str):
        raise InputError(f"{table.location(number)}: '{name}' is {cell!r}, which is not allowed here.")
    return cell
