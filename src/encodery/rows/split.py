"""Split rows into train, dev and test by a hash of their text, the same at every call and on every machine.

Texts that differ only in case, character width and whitespace are in the same split, whatever the order of the rows and
whatever rows are added. Shapes: R rows.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from encodery.base.errors import SettingsError
from encodery.rows.table import Table

SPLIT_FRACTIONS: Mapping[str, float] = {"train": 0.8, "dev": 0.1, "test": 0.1}


def normalise_text(text: str) -> str:
    """Return the text in compatibility form, case-folded and with single spaces; texts with equal results are equal."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def row_keys(table: Table, columns: Sequence[str]) -> list[str]:
    """Return the normalised texts of some columns (R), joined into one key per row."""
    return [
        "\0".join(normalise_text(_text(cell)) for cell in row) for row in zip(*(table[c] for c in columns), strict=True)
    ]


def split_rows(
    keys: Sequence[str],
    labels: Sequence[Any] | None = None,
    fractions: Mapping[str, float] = SPLIT_FRACTIONS,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Return split -> row numbers, ascending.

    Args:
        keys: the key of each row (R); rows with equal keys are in the same split.
        labels: the label of each row (R). If no row of a label would be in the first split, the rows of one of its
            keys are moved there.
        fractions: split -> its fraction of the rows.

    Raises `SettingsError` for invalid fractions.
    """
    first = next(iter(fractions.values()))
    if any(fraction < 0 for fraction in fractions.values()) or not sum(fractions.values()) > 0 or not first:
        raise SettingsError(f"fractions = {dict(fractions)}: none may be negative, and the first must be above 0.")
    names, weights = list(fractions), np.array(list(fractions.values()), np.float64)
    edges = np.cumsum(weights / weights.sum())
    position = {key: _hash(key, seed) for key in dict.fromkeys(keys)}
    split = {key: min(int(np.searchsorted(edges, at, side="right")), len(names) - 1) for key, at in position.items()}
    if labels is not None:
        keys_of: dict[Any, list[str]] = {}
        for key, label in zip(keys, labels, strict=True):
            keys_of.setdefault(label, []).append(key)
        for members in keys_of.values():
            if all(split[key] for key in members):
                split[min(members, key=lambda key: (position[key], key))] = 0
    assigned = np.array([split[key] for key in keys], np.int64)
    return {name: np.flatnonzero(assigned == number) for number, name in enumerate(names)}


def fill_missing_splits(
    tables: Mapping[str, Table],
    columns: Sequence[str],
    label: str | None = None,
    fractions: Mapping[str, float] = SPLIT_FRACTIONS,
    seed: int = 0,
) -> dict[str, Table]:
    """Return the tables, with missing splits taken from "train"; existing splits do not change.

    Nothing is taken if "train" would be left empty.

    Args:
        columns: the columns whose texts decide the split.
        label: the column of the labels; every label keeps a row in "train".
        fractions: split -> its fraction of the rows.
    """
    if "train" not in tables:
        return dict(tables)
    needed = {name: part for name, part in fractions.items() if part and (name == "train" or name not in tables)}
    if list(needed) == ["train"]:
        return dict(tables)
    train = tables["train"]
    labels = None if label is None else [str(value) for value in train[label]]
    rows = split_rows(row_keys(train, columns), labels, needed, seed)
    taken = {name: train.take(numbers, name) for name, numbers in rows.items()}
    if not len(taken["train"]):
        return dict(tables)
    return {**taken, **{name: table for name, table in tables.items() if name != "train"}}


def remove_overlap(train: Table, heldout: Table, columns: Sequence[str]) -> Table:
    """Return the training rows none of whose texts occurs in the held-out rows, in any of the columns.

    If fewer than half would be left, because a few texts occur everywhere, all training rows are returned.
    """
    excluded = {key for column in columns for key in row_keys(heldout, [column])}
    kept = np.ones(len(train), bool)
    for column in columns:
        kept &= np.array([key not in excluded for key in row_keys(train, [column])], bool)
    return train.take(kept) if kept.sum() >= len(train) / 2 else train


def _hash(key: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}\0{key}".encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest()[:6], "big") / 2**48


def _text(cell: Any) -> str:
    if cell is None:
        return ""
    return " ".join(map(_text, cell)) if isinstance(cell, list) else str(cell)
