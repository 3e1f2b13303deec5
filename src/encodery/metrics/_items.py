"""Check truth and predictions of the metrics over items, and return them as arrays of matching shape.

In all functions `metric` is the name of the metric, for messages.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from encodery.base.errors import EmptyInput, InputError


def labels(truth: ArrayLike, predicted: ArrayLike, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (N,) of one type on both sides, or multi-label indicators (N, C). Raises `InputError`."""
    left, right = np.asarray(truth), np.asarray(predicted)
    _check_shapes(left.shape, right.shape, metric)
    if left.ndim > 2:
        raise InputError(f"{metric}: labels must have the shape (N,), or be 0 and 1 of (N, C), not {left.shape}.")
    if (left.dtype.kind in "UO") != (right.dtype.kind in "UO"):
        raise InputError(
            f"{metric}: truth has type {left.dtype}, but the prediction {right.dtype}: they could never be equal."
        )
    for side in (left, right):
        wrong = (
            [type(item).__name__ for item in side.ravel() if not isinstance(item, str)] if side.dtype == object else []
        )
        if wrong:
            raise InputError(f"{metric}: labels must be text or whole numbers, but one is {wrong[0]}.")
        if side.dtype.kind == "f" and not np.isfinite(side).all():
            raise InputError(f"{metric}: item {int(np.flatnonzero(~np.isfinite(side))[0])} is NaN, not a label.")
    return left, right


def numbers(truth: ArrayLike, predicted: ArrayLike, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers (N,) float64 of both sides. Raises `InputError` naming the first item that is not finite."""
    left, right = _numeric(truth, metric), _numeric(predicted, metric)
    _check_shapes(left.shape, right.shape, metric)
    if left.ndim != 1:
        raise InputError(f"{metric}: numbers must have the shape (N,), not {left.shape}.")
    return left, right


def class_probabilities(truth: ArrayLike, predicted: ArrayLike, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Return class numbers (N,) int64 and the probability of each class (N, C).

    For two classes the probability of class 1 (N,) is enough.
    Raises `InputError` for invalid class numbers, and for predictions that are not probabilities.
    """
    numbers, probabilities = _numeric(truth, metric), _numeric(predicted, metric)
    if probabilities.ndim == 1:
        probabilities = np.stack([1 - probabilities, probabilities], 1)
    _check_shapes(numbers.shape, probabilities.shape[:1], metric)
    classes, count = numbers.astype(np.int64), probabilities.shape[-1]
    if probabilities.ndim != 2 or (classes != numbers).any() or classes.min() < 0 or classes.max() >= count:
        raise InputError(f"{metric}: the truth of each item must be a class number from 0 to {count - 1}.")
    if probabilities.min() < -1e-6 or probabilities.max() > 1 + 1e-6 or np.abs(probabilities.sum(1) - 1).max() > 1e-3:
        raise InputError(f"{metric}: probabilities must lie between 0 and 1 and add up to 1; these are scores.")
    return classes, probabilities


def binary_scores(truth: ArrayLike, predicted: ArrayLike, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Return 0 or 1 (N,) int64 and scores (N,). Raises `InputError` for other truths, and if all are the same."""
    classes, scores = numbers(truth, predicted, metric)
    if not np.isin(classes, (0, 1)).all():
        raise InputError(f"{metric}: the truth of each item must be 0 or 1.")
    if classes.min() == classes.max():
        raise InputError(f"{metric}: the truth of all items is {int(classes[0])}; both 0 and 1 are needed.")
    return classes.astype(np.int64), scores


def _numeric(values: ArrayLike, metric: str) -> np.ndarray:
    try:
        array: np.ndarray = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{metric}: numbers are needed: {error}.") from error
    if not np.isfinite(array).all():
        raise InputError(f"{metric}: item {int(np.argwhere(~np.isfinite(array))[0][0])} is NaN or infinite.")
    return array


def _check_shapes(left: Any, right: Any, metric: str) -> None:
    if left != right:
        raise InputError(f"{metric}: truth has the shape {left}, but the prediction {right}.")
    if not left or not left[0]:
        raise EmptyInput(f"{metric}: there are no items.")
