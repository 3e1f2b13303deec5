"""Figures of tasks, of plain lists: the definitions of scikit-learn, scipy and seqeval, without loading them.

A score is asked for many times in a run, and on few rows each time.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np


def accuracy(truth: Sequence[Hashable], given: Sequence[Hashable]) -> float:
    """Share of rows whose prediction is the truth."""
    return float(np.mean([a == b for a, b in zip(truth, given, strict=True)]))


def macro_f1(truth: Sequence[str], given: Sequence[str]) -> float:
    """Mean of the F1 of every class that is true or predicted somewhere."""
    matrix = confusion(truth, given)[1]
    hits, total = np.diag(matrix), matrix.sum(0) + matrix.sum(1)
    return float(np.mean(2 * hits / total))


def matthews(truth: Sequence[str], given: Sequence[str]) -> float:
    """Matthews' correlation over classes; 0 where either side has one class only."""
    matrix = confusion(truth, given)[1].astype(np.float64)
    true, found, rows = matrix.sum(1), matrix.sum(0), matrix.sum()
    below = (rows**2 - found @ found) * (rows**2 - true @ true)
    return float((np.trace(matrix) * rows - true @ found) / np.sqrt(below)) if below > 0 else 0.0


def confusion(truth: Sequence[str], given: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The labels of either side (C,), and how often each truth (row) was given each label (column) (C, C)."""
    labels = sorted({*truth, *given})
    at = {label: place for place, label in enumerate(labels)}
    matrix = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(matrix, ([at[label] for label in truth], [at[label] for label in given]), 1)
    return labels, matrix


def ranks(values: Sequence[float]) -> np.ndarray:
    """(R,) the rank of each value from 1; equal ones share the mean of theirs."""
    _, place, counts = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    last = counts.cumsum()
    found: np.ndarray = (last - (counts - 1) / 2)[place]
    return found


def pearson(truth: Sequence[float], given: Sequence[float]) -> float:
    """Linear correlation; 0 where either side does not vary."""
    a, b = (np.asarray(side, np.float64) - np.mean(side) for side in (truth, given))
    below = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / below) if below > 1e-12 else 0.0


def spearman(truth: Sequence[float], given: Sequence[float]) -> float:
    """Correlation of ranks; 0 where either side does not vary."""
    return pearson(ranks(truth).tolist(), ranks(given).tolist())


def micro_f1(truth: Sequence[set[Any]], given: Sequence[set[Any]]) -> dict[str, float]:
    """Precision, recall and F1 over all members of the rows' sets; 0 where nothing is found or true."""
    hits = sum(len(a & b) for a, b in zip(truth, given, strict=True))
    true, found = sum(map(len, truth)), sum(map(len, given))
    return {
        "precision": hits / found if found else 0.0,
        "recall": hits / true if true else 0.0,
        "f1": 2 * hits / (true + found) if true + found else 0.0,
    }
