"""Labels of rows: which there are, how often, and which row lacks one.

Shapes: R rows, C labels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from encodery.base.errors import InputError, nearest
from encodery.rows import cells

ClassWeighting = Literal["none", "balanced", "root"]


def label_name(value: Any, row: int) -> str:
    """A label as text, of shares the likeliest. Raises `InputError` naming a row without one."""
    if isinstance(value, Mapping) and value:
        value = max(value, key=lambda label: (value[label], str(label)))
    if value is None or (isinstance(value, float) and math.isnan(value)) or value == "":
        raise InputError(f"Row {row}: has no label.")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def label_names(values: Iterable[Any]) -> list[str]:
    """The label of each row."""
    return [label_name(value, row) for row, value in enumerate(values)]


def count_labels(labels: Iterable[str]) -> tuple[list[str], list[int]]:
    """The labels there are, in order (numbers by value), and how often each stands."""
    counted = Counter(labels)
    ordered = sorted(counted, key=_order)
    return ordered, [counted[label] for label in ordered]


def label_indices(labels: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """(R,) the place of each among the known ones. Raises `InputError` naming a row with another."""
    at = {label: place for place, label in enumerate(classes)}
    for row, label in enumerate(labels):
        if label not in at:
            raise InputError(
                f"Row {row}: label '{label}' is none of the {len(classes)} known.{nearest(label, classes)}"
            )
    return np.array([at[label] for label in labels], np.int64)


def score_values(values: Sequence[Any]) -> np.ndarray:
    """(R,) float64 the values. Raises `InputError` naming a row whose value is no finite number."""
    found = np.array([cells.number(value) for value in values], np.float64)
    for row in np.flatnonzero(np.isnan(found)).tolist():
        raise InputError(f"Row {row}: its score is {values[row]!r}, a number is needed.")
    return found


def has_soft_labels(values: Iterable[Any]) -> bool:
    """Whether a row has a share of each label (label -> number) in place of one."""
    return any(isinstance(value, Mapping) for value in values)


def soft_labels(values: Sequence[Any]) -> tuple[list[str], np.ndarray]:
    """The labels there are (C,), in order, and the share of each (R, C), which add up to 1; a plain label is all of it.

    Raises `InputError` naming a row whose shares are none.
    """
    rows = [value if isinstance(value, Mapping) else {label_name(value, row): 1} for row, value in enumerate(values)]
    labels = sorted({str(label) for row in rows for label in row}, key=_order)
    at = {label: place for place, label in enumerate(labels)}
    found = np.zeros((len(rows), len(labels)))
    for number, row in enumerate(rows):
        given = score_values(list(row.values()))
        if not len(given) or given.min() < 0 or not given.sum() > 0:
            raise InputError(f"Row {number}: its labels are {row!r}; shares are not negative, one is more than 0.")
        found[number, [at[str(label)] for label in row]] = given / given.sum()
    return labels, found


def class_weights(counts: Sequence[float], kind: ClassWeighting) -> list[float]:
    """A weight (C,) for each class whose mean over the rows is 1: as 1 / count ("balanced"), or its root."""
    power = {"none": 0.0, "root": 0.5, "balanced": 1.0}[kind]
    raw = np.asarray(counts, np.float64) ** -power
    found: list[float] = (raw * sum(counts) / (raw * counts).sum()).tolist()
    return found


def _order(label: str) -> tuple[float, str]:
    try:
        number = float(label)
    except ValueError:
        return math.inf, label
    return (number, label) if math.isfinite(number) else (math.inf, label)
