"""What the metrics of items share: truth and prediction as arrays that match, or a refusal that says why not."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from encodery.base.errors import EmptyInput, InputError


def labels(truth: ArrayLike, predicted: ArrayLike, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) of one kind on both sides, or 0 and 1 of several labels (N, C). Raises `InputError`."""
    left, right = np.asarray(truth), np.asarray(predicted)
    _matching(left.shape, right.shape, what)
    if left.ndim > 2:
        raise InputError(f"{what}: labels are (N,), or 0 and 1 of (N, C), not of shape {left.shape}.")
    if (left.dtype.kind in "UO") != (right.dtype.kind in "UO"):
        raise InputError(f"{what}: truth is {left.dtype}, the prediction {right.dtype}: they could never agree.")
    for side in (left, right):
        strange = (
            [type(one).__name__ for one in side.ravel() if not isinstance(one, str)] if side.dtype == object else []
        )
        if strange:
            raise InputError(f"{what}: labels are text or whole numbers, one is {strange[0]}.")
        if side.dtype.kind == "f" and not np.isfinite(side).all():
            raise InputError(f"{what}: item {int(np.flatnonzero(~np.isfinite(side))[0])} is no label but NaN.")
    return left, right


def numbers(truth: ArrayLike, predicted: ArrayLike, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Numbers (N,) against numbers (N,), float64. Raises `InputError`, also for NaN, naming the item."""
    left, right = _numeric(truth, what), _numeric(predicted, what)
    _matching(left.shape, right.shape, what)
    if left.ndim != 1:
        raise InputError(f"{what}: numbers are (N,), not of shape {left.shape}.")
    return left, right


def chances(truth: ArrayLike, predicted: ArrayLike, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Class numbers (N,) int64 and the probability of each class (N, C); of two classes, that of 1 (N,) will do.

    Raises `InputError` for class numbers that are none, and for what is no probability.
    """
    known, given = _numeric(truth, what), _numeric(predicted, what)
    if given.ndim == 1:
        given = np.stack([1 - given, given], 1)
    _matching(known.shape, given.shape[:1], what)
    classes = known.astype(np.int64)
    if given.ndim != 2 or (classes != known).any() or classes.min() < 0 or classes.max() >= given.shape[1]:
        raise InputError(f"{what}: truth is a class number from 0 to {given.shape[-1] - 1} for each item.")
    if given.min() < -1e-6 or given.max() > 1 + 1e-6 or np.abs(given.sum(1) - 1).max() > 1e-3:
        raise InputError(f"{what}: probabilities lie between 0 and 1 and add up to 1: these are scores.")
    return classes, given


def two_sided(truth: ArrayLike, predicted: ArrayLike, what: str) -> tuple[np.ndarray, np.ndarray]:
    """0 or 1 (N,) int64 and scores (N,). Raises `InputError` for other truths, and where all are the same."""
    known, given = numbers(truth, predicted, what)
    if not np.isin(known, (0, 1)).all():
        raise InputError(f"{what}: truth is 0 or 1 for each item.")
    if known.min() == known.max():
        raise InputError(f"{what}: all items are {int(known[0])}: there is nothing to tell apart.")
    return known.astype(np.int64), given


def _numeric(values: ArrayLike, what: str) -> np.ndarray:
    try:
        found: np.ndarray = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what}: needs numbers: {error}.") from error
    if not np.isfinite(found).all():
        raise InputError(f"{what}: item {int(np.argwhere(~np.isfinite(found))[0][0])} is NaN or infinite.")
    return found


def _matching(left: Any, right: Any, what: str) -> None:
    if left != right:
        raise InputError(f"{what}: truth has shape {left}, the prediction {right}.")
    if not left or not left[0]:
        raise EmptyInput(f"{what}: there are no items to measure.")
