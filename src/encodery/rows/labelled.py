"""Labelled data by split: the role of every column, held-out rows. Needs no tokens.

Fine-tuning and the training of embeddings read their data with it. Shapes: R rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from encodery.base.errors import InputError
from encodery.rows.columns import Roles
from encodery.rows.split import fill_missing_splits, remove_overlap
from encodery.rows.table import Table

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True, eq=False)
class LabelledTables:
    """`tables`: split → its rows. `roles`: split → the roles of its columns. `notes`: messages about what was read."""

    tables: dict[str, Table]
    roles: dict[str, Roles]
    notes: list[str]


def assign_by_split(
    tables: Mapping[str, Table], assign: Callable[[Table], Roles], optional: Sequence[str] = ()
) -> LabelledTables:
    """Assign the roles of each split with `assign`, each by itself since splits may have different columns.

    If there is a split "train", a split in `optional` without the necessary columns is left out, with a note.
    Raises what `assign` raises, usually `InputError`.
    """
    kept, roles, notes = dict[str, Table](), dict[str, Roles](), list[str]()
    for name, table in tables.items():
        try:
            roles[name] = assign(table)
        except InputError as error:
            if name not in optional or "train" not in tables:
                raise
            notes.append(f"{name}: left out: {error}")
            continue
        kept[name] = table
        notes += [note for note in table.warnings if note not in notes]
    notes += _role_notes(roles)
    return LabelledTables(kept, roles, notes)


def hold_out(
    tables: Mapping[str, Table],
    group_by: Sequence[str],
    fractions: Mapping[str, float],
    label: str | None = None,
    exclusive: Sequence[str] = (),
    min_rows: int = 1,
) -> tuple[dict[str, Table], list[str]]:
    """Take the splits in `fractions` that are missing out of "train"; the same rows at every call.

    Rows with equal cells in the columns `group_by` stay together. With `label`, no class is missing from training.
    Training rows that share a text in one of the columns `exclusive` with a held-out row are removed. A split of fewer
    than `min_rows` rows is not held out; its rows stay in training.
    Returns the tables, and a message for each split in `fractions` that was missing.
    """
    missing = {name: fraction for name, fraction in fractions.items() if name not in tables and fraction}
    if not missing:
        return dict(tables), []
    whole = len(tables["train"])
    split = fill_missing_splits(tables, group_by, label, {"train": 1 - sum(missing.values()), **missing})
    kept = " and ".join(group_by)
    notes = []
    for name in missing:
        rows = split.pop(name, None)
        if rows is None or len(rows) < min_rows:
            if rows is not None and len(rows):
                split["train"] = tables["train"] if len(missing) == 1 else split["train"].concat(rows)
            notes.append(f"no {name} rows are held out: too few rows differ in {kept}")
            continue
        split[name] = rows
        before = len(split["train"])
        if exclusive:
            split["train"] = remove_overlap(split["train"], rows, exclusive)
        removed = before - len(split["train"])
        notes.append(
            f"{len(rows):,} of {whole:,} rows are held out as {name} rows; no training row has the same {kept}"
            + (f", and {removed:,} rows that share another text with them are left out" if removed else "")
        )
    return split, notes


def has_classes(table: Table, label: str) -> bool:
    """Return whether a column of labels has more than one value."""
    return len(set(map(str, table[label]))) > 1


def _role_notes(roles: Mapping[str, Roles]) -> list[str]:
    """Return one message if all splits have the same columns, else one for each."""
    described = {name: str(own) for name, own in roles.items()}
    if len(set(described.values())) == 1:
        return [f"columns: {next(iter(described.values()))}"]
    return [f"columns of {name}: {text}" for name, text in described.items()]
