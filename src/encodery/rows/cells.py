"""Convert the cells of a column to texts or numbers; an invalid cell is refused with its location. Shapes: R rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from encodery.base.errors import InputError
from encodery.rows.table import Table


def texts(table: Table, name: str) -> list[str]:
    """Return the cells of a column (R). Raises `InputError` for the first that is not text; empty text is allowed."""
    cells = list(table[name])
    for row, cell in enumerate(cells):
        if not isinstance(cell, str):
            content = "empty" if cell is None else f"not text but {type(cell).__name__}"
            raise InputError(f"{table.location(row)}: column '{name}' is {content}.")
    return cells


def numbers(table: Table, name: str) -> np.ndarray:
    """Return the cells of a column (R,) float64. Raises `InputError` naming the first that is not a finite number."""
    values = np.array([number(cell) for cell in table[name]], np.float64)
    for row in np.flatnonzero(np.isnan(values)).tolist():
        raise InputError(f"{table.location(row)}: column '{name}' is {table[name][row]!r}, a number is needed.")
    return values


def number(cell: Any) -> float:
    """Return a cell as a number, also if it is written as text; NaN if it is not a finite number."""
    try:
        value = float(cell)
    except (TypeError, ValueError):
        return math.nan
    return value if math.isfinite(value) else math.nan
