"""Counts of hits, true and predicted items per class, from which precision, F1 and Matthews' correlation are computed.

Uses numpy only, because these metrics are computed often during a run, each time on few items. Shapes: N items,
C classes.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from encodery.base.errors import InputError
from encodery.metrics._items import labels

Average = Literal["macro", "micro", "weighted", "binary"]


class Counts(NamedTuple):
    """Counts per class (C,): items of the class that were predicted as such (`hits`), items of the class (`true`), and
    items predicted as the class (`predicted`)."""

    hits: np.ndarray
    true: np.ndarray
    predicted: np.ndarray


def count_classes(truth: ArrayLike, predicted: ArrayLike, metric: str) -> Counts:
    """Return the counts (C,) of labels (N,), or of multi-label indicators of 0 and 1 (N, C).

    Raises `InputError` for other arrays; `metric` names the metric in the message.
    """
    left, right = labels(truth, predicted, metric)
    for side in (left, right):
        if side.dtype.kind == "f" and (side != np.floor(side)).any():
            wrong = side[side != np.floor(side)][0]
            raise InputError(f"{metric}: labels must be text or whole numbers, but one is {wrong}.")
    if left.ndim == 2 and left.shape[1] > 1:
        for side in (left, right):
            if not np.isin(side, (0, 1)).all():
                raise InputError(f"{metric}: with several labels per item, each must be 0 or 1.")
        one, other = left.astype(bool), right.astype(bool)
        return Counts((one & other).sum(0), one.sum(0), other.sum(0))
    left, right = left.ravel(), right.ravel()
    classes, numbers = np.unique(np.concatenate([left, right]), return_inverse=True)
    left, right = numbers[: len(left)], numbers[len(left) :]
    return Counts(*(np.bincount(ids, minlength=len(classes)) for ids in (left[left == right], left, right)))


def count_class(truth: ArrayLike, predicted: ArrayLike, positive: int | str, metric: str) -> Counts:
    """Return the counts (1,) of one class against all others. Raises `InputError`."""
    left, right = labels(truth, predicted, metric)
    left, right = (left == positive).ravel(), (right == positive).ravel()
    return Counts(*(np.array([mask.sum()]) for mask in (left & right, left, right)))


def average_ratio(numerator: np.ndarray, denominator: np.ndarray, true: np.ndarray, average: Average) -> float:
    """Return the mean over classes of `numerator` / `denominator` (C,); a class with denominator 0 counts as 0.

    Args:
        true: items of each class (C,), the weights of average "weighted".
    """
    if average in ("micro", "binary"):
        numerator, denominator, true = numerator.sum(keepdims=True), denominator.sum(keepdims=True), np.ones(1)
    ratios = np.divide(numerator, denominator, out=np.zeros(len(denominator)), where=denominator > 0)
    if average != "weighted":
        return float(ratios.mean())
    return float(ratios @ true / true.sum()) if true.any() else 0.0
