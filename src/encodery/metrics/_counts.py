"""Hits, truths and predictions of classes, and means of them: what precision, F1 and Matthews' correlation are made of.

Of numpy alone: such a figure is asked for many times in a run, and on few rows each time. Shapes: N items, C classes.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from encodery.base.errors import InputError
from encodery.metrics._items import labels

Average = Literal["macro", "micro", "weighted", "binary"]


class Counts(NamedTuple):
    """(C,) of each class: items that are of it and were said to be (`hits`), that are (`true`), that were said to be
    (`given`)."""

    hits: np.ndarray
    true: np.ndarray
    predicted: np.ndarray


def counted(truth: ArrayLike, predicted: ArrayLike, what: str) -> Counts:
    """Of labels (N,), or of 0 and 1 of several labels (N, C). Raises `InputError` for what is neither."""
    left, right = labels(truth, predicted, what)
    for side in (left, right):
        if side.dtype.kind == "f" and (side != np.floor(side)).any():
            raise InputError(f"{what}: labels are text or whole numbers, one is {side[side != np.floor(side)][0]}.")
    if left.ndim == 2 and left.shape[1] > 1:
        for side in (left, right):
            if not np.isin(side, (0, 1)).all():
                raise InputError(f"{what}: of several labels for each item, each is 0 or 1.")
        one, other = left.astype(bool), right.astype(bool)
        return Counts((one & other).sum(0), one.sum(0), other.sum(0))
    left, right = left.ravel(), right.ravel()
    classes, numbers = np.unique(np.concatenate([left, right]), return_inverse=True)
    true, given = numbers[: len(left)], numbers[len(left) :]
    hits, trues, givens = (np.bincount(some, minlength=len(classes)) for some in (true[true == given], true, given))
    return Counts(hits, trues, givens)


def of_one(truth: ArrayLike, predicted: ArrayLike, positive: int | str, what: str) -> Counts:
    """(1,) of one class against all others. Raises `InputError`."""
    left, right = labels(truth, predicted, what)
    true, given = (left == positive).ravel(), (right == positive).ravel()
    return Counts(*(np.array([some.sum()]) for some in (true & given, true, given)))


def averaged(above: np.ndarray, below: np.ndarray, true: np.ndarray, average: Average) -> float:
    """The mean over classes of `above` / `below` (C,), 0 where nothing is below, as `average` has it."""
    if average in ("micro", "binary"):
        above, below, true = above.sum(keepdims=True), below.sum(keepdims=True), np.ones(1)
    each = np.divide(above, below, out=np.zeros(len(below)), where=below > 0)
    if average != "weighted":
        return float(each.mean())
    return float(each @ true / true.sum()) if true.any() else 0.0
