"""Labels and scores of rows: the set of labels, their counts and class weights, and which row lacks one.

Shapes: R rows, C labels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from encodery.base.errors import InputError, SettingsError, nearest
from encodery.rows import cells

ClassWeighting = Literal["none", "balanced", "root"]


def label_name(value: Any, row: int) -> str:
    """Return a label as text; of soft labels the most probable. Raises `InputError` naming a row without one."""
    if isinstance(value, Mapping) and value:
        value = max(value, key=lambda label: (value[label], str(label)))
    if value is None or (isinstance(value, float) and math.isnan(value)) or value == "":
        raise InputError(f"Row {row} has no label.")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def label_names(values: Iterable[Any]) -> list[str]:
    """Return the label of each row (R)."""
    return [label_name(value, row) for row, value in enumerate(values)]


def count_labels(labels: Iterable[str]) -> tuple[list[str], list[int]]:
    """Return the distinct labels (C) in order, numbers by value, and the count of each."""
    counted = Counter(labels)
    ordered = sorted(counted, key=_order)
    return ordered, [counted[label] for label in ordered]


def label_indices(labels: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Return (R,) the index of each label in `classes`. Raises `InputError` naming a row with another label."""
    index_of = {label: index for index, label in enumerate(classes)}
    for row, label in enumerate(labels):
        if label not in index_of:
            raise InputError(
                f"Row {row}: label '{label}' is not one of the {len(classes)} of training.{nearest(label, classes)}"
            )
    return np.array([index_of[label] for label in labels], np.int64)


def score_values(values: Sequence[Any]) -> np.ndarray:
    """Return (R,) the scores in float64. Raises `InputError` naming a row whose score is not a finite number."""
    scores = np.array([cells.number(value) for value in values], np.float64)
    for row in np.flatnonzero(np.isnan(scores)).tolist():
        raise InputError(f"Row {row}: its score is {values[row]!r}; a number is needed.")
    return scores


def has_soft_labels(values: Iterable[Any]) -> bool:
    """Return whether a row has a probability for each label (label → number) in place of one label."""
    return any(isinstance(value, Mapping) for value in values)


def soft_labels(values: Sequence[Any]) -> tuple[list[str], np.ndarray]:
    """Return the distinct labels (C) in order and probabilities (R, C) whose rows sum to 1; a plain label has 1.

    Raises `InputError` naming a row whose numbers are negative or all 0.
    """
    rows = [value if isinstance(value, Mapping) else {label_name(value, row): 1} for row, value in enumerate(values)]
    labels = sorted({str(label) for row in rows for label in row}, key=_order)
    index_of = {label: index for index, label in enumerate(labels)}
    probabilities = np.zeros((len(rows), len(labels)))
    for number, row in enumerate(rows):
        weights = score_values(list(row.values()))
        if not len(weights) or weights.min() < 0 or not weights.sum() > 0:
            raise InputError(
                f"Row {number}: its labels are {row!r}; the probability of each must not be negative, and one must be "
                "more than 0."
            )
        probabilities[number, [index_of[str(label)] for label in row]] = weights / weights.sum()
    return labels, probabilities


def class_weights(counts: Sequence[float], kind: ClassWeighting) -> list[float]:
    """Return class weights (C,): 1 / count ("balanced"), its root ("root") or 1, scaled to a mean of 1 over rows."""
    power = {"none": 0.0, "root": 0.5, "balanced": 1.0}[kind]
    raw = np.asarray(counts, np.float64) ** -power
    scaled: list[float] = (raw * sum(counts) / (raw * counts).sum()).tolist()
    return scaled


def _order(label: str) -> tuple[float, str]:
    try:
        number = float(label)
    except ValueError:
        return math.inf, label
    return (number, label) if math.isfinite(number) else (math.inf, label)


def check_scores_differ(scores: np.ndarray) -> None:
    """Raise `InputError` if there are no scores (R,) or all are equal."""
    if not len(scores) or scores.min() == scores.max():
        raise InputError("There is nothing to distinguish: all rows have the same score, or there are no rows.")


def check_described(label_descriptions: Mapping[str, str], labels: Sequence[str]) -> None:
    """Raise `SettingsError` for a description of a label that no row has."""
    for label in label_descriptions:
        if label not in labels:
            raise SettingsError(f"label_descriptions.{label}: no row has this label.{nearest(label, labels)}")
