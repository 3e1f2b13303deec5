"""The columns a suite wants, of one split of a labelled file or folder, checked cell by cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from encodery.base.errors import InputError, nearest
from encodery.rows.columns import NAMES, assign_roles
from encodery.rows.read import read_tables
from encodery.rows.table import Table

# What else a role is called where something is measured, as against trained.
USUAL: Mapping[str, Sequence[str]] = {
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
    """The rows of one split; of the test, else dev, else what there is where `split` is empty.

    Raises `InputError` naming file and line, `EmptyInput`.
    """
    held = read_tables(data)
    return held[split_name(data, held, split)]


def split_name(data: Path, held: Mapping[str, Table], split: str) -> str:
    """The name of that split. Raises `InputError`."""
    if not split:
        return next(name for name in ("test", "dev", *held) if name in held)
    if split not in held:
        raise InputError(f"{data}: has no split '{split}'.{nearest(split, held)} It has {', '.join(held)}.")
    return split


def read_columns(
    table: Table, wanted: Sequence[str], given: Mapping[str, str], optional: Sequence[str] = ()
) -> dict[str, list[Any]]:
    """Role -> cells, of the roles wanted and those optional ones that are there. Raises `InputError` naming the row."""
    roles = assign_roles(table, wanted, given, optional, USUAL)
    return {role: _checked(table, name, KINDS.get(role, str)) for role, name in roles.columns.items()}


def _checked(table: Table, name: str, kind: type | tuple[type, ...]) -> list[Any]:
    return [_typed(cell, kind, table, number, name) for number, cell in enumerate(table[name])]


def _typed(cell: Any, kind: type | tuple[type, ...], table: Table, number: int, name: str) -> Any:
    if kind is float:
        try:
            found = float(cell)
        except (TypeError, ValueError):
            found = float("nan")
        if found != found:
            raise InputError(f"{table.location(number)}: '{name}' is {cell!r}, a number is needed.")
        return found
    if not isinstance(cell, kind) or (cell == "" and kind is not str):
        raise InputError(f"{table.location(number)}: '{name}' is {cell!r}, which cannot be used here.")
    return cell
