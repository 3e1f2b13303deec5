"""Cells as texts and as numbers; what is neither is refused by its place.

Shapes: R rows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from encodery.base.errors import InputError
from encodery.rows.table import Table


def texts(table: Table, name: str) -> list[str]:
    """(R) a column's cells. Raises `InputError` naming the first that is no text; empty text is text."""
    found = list(table[name])
    for row, cell in enumerate(found):
        if not isinstance(cell, str):
            kind = "empty" if cell is None else f"no text but {type(cell).__name__}"
            raise InputError(f"{table.location(row)}: column '{name}' is {kind}.")
    return found


def numbers(table: Table, name: str) -> np.ndarray:
    """(R,) float64 a column's cells. Raises `InputError` naming the first that is no finite number."""
    found = np.array([number(cell) for cell in table[name]], np.float64)
    for row in np.flatnonzero(np.isnan(found)).tolist():
        raise InputError(f"{table.location(row)}: column '{name}' is {table[name][row]!r}, a number is needed.")
    return found


def number(cell: Any) -> float:
    """A cell's finite number, also one that is written as text; NaN where it is none."""
    try:
        found = float(cell)
    except (TypeError, ValueError):
        return math.nan
    return found if math.isfinite(found) else math.nan
