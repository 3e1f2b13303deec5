"""Train, dev and test where they are missing: by a hash of what is read, the same at every call and on every machine.

Equal texts (case, width and blanks aside) fall on one side, in whatever order rows come and whatever is added.
Shapes: R rows.
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
    """The text by which two are taken for the same: compatible forms, case folded, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def row_keys(table: Table, columns: Sequence[str]) -> list[str]:
    """(R) the normalised texts of some columns, in one."""
    return [
        "\0".join(normalise_text(_text(cell)) for cell in row) for row in zip(*(table[c] for c in columns), strict=True)
    ]


def split_rows(
    keys: Sequence[str],
    labels: Sequence[Any] | None = None,
    fractions: Mapping[str, float] = SPLIT_FRACTIONS,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Split -> numbers of its rows, ascending, of rows with the keys `found` (R).

    With `labels` (R), a class that would stand outside the first split only lends it the rows of one text.
    Raises `SettingsError` for shares that are no shares.
    """
    if (
        any(share < 0 for share in fractions.values())
        or not sum(fractions.values()) > 0
        or not next(iter(fractions.values()))
    ):
        raise SettingsError(f"shares = {dict(fractions)}: are not negative, and the first one is more than 0.")
    names, weights = list(fractions), np.array(list(fractions.values()), np.float64)
    edges = np.cumsum(weights / weights.sum())
    place = {key: _hash(key, seed) for key in dict.fromkeys(keys)}
    side = {key: min(int(np.searchsorted(edges, at, side="right")), len(names) - 1) for key, at in place.items()}
    if labels is not None:
        classes: dict[Any, list[str]] = {}
        for key, label in zip(keys, labels, strict=True):
            classes.setdefault(label, []).append(key)
        for members in classes.values():
            if all(side[key] for key in members):
                side[min(members, key=lambda key: (place[key], key))] = 0
    at = np.array([side[key] for key in keys], np.int64)
    return {name: np.flatnonzero(at == number) for number, name in enumerate(names)}


def fill_missing_splits(
    tables: Mapping[str, Table],
    columns: Sequence[str],
    label: str | None = None,
    fractions: Mapping[str, float] = SPLIT_FRACTIONS,
    seed: int = 0,
) -> dict[str, Table]:
    """The tables, with those splits of `shares` that are missing taken out of "train"; none that are there change, and
    nothing is taken where "train" would be left empty."""
    if "train" not in tables:
        return dict(tables)
    wanted = {name: share for name, share in fractions.items() if share and (name == "train" or name not in tables)}
    if list(wanted) == ["train"]:
        return dict(tables)
    train = tables["train"]
    labels = None if label is None else [str(value) for value in train[label]]
    taken = {
        name: train.take(rows, name)
        for name, rows in split_rows(row_keys(train, columns), labels, wanted, seed).items()
    }
    if not len(taken["train"]):
        return dict(tables)
    return {**taken, **{name: table for name, table in tables.items() if name != "train"}}


def remove_overlap(train: Table, heldout: Table, columns: Sequence[str]) -> Table:
    """The training rows none of whose texts stands in the held-out ones, in whichever of the columns; all of them where
    a few texts are everywhere, so that fewer than half would be left."""
    away = {key for column in columns for key in row_keys(heldout, [column])}
    stay = np.ones(len(train), bool)
    for column in columns:
        stay &= np.array([key not in away for key in row_keys(train, [column])], bool)
    return train.take(stay) if stay.sum() >= len(train) / 2 else train


def _hash(key: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}\0{key}".encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest()[:6], "big") / 2**48


def _text(cell: Any) -> str:
    if cell is None:
        return ""
    return " ".join(map(_text, cell)) if isinstance(cell, list) else str(cell)
