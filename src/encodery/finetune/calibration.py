"""Calibration of probabilities: one temperature for all logits, fitted on held-out rows, and the remaining error.

Dividing logits by a number changes no prediction, only the confidence. arXiv:1706.04599
Shapes: R rows, C classes, K bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from encodery.base.errors import EmptyInput

BINS = 15
MIN_TEMPERATURE, MAX_TEMPERATURE, STEPS = 0.05, 20.0, 60
GOLDEN_RATIO = (np.sqrt(5) - 1) / 2


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return (R, C) the probabilities of logits (R, C)."""
    scaled = logits.astype(np.float64) / temperature
    shifted = np.exp(scaled - scaled.max(1, keepdims=True))
    probabilities: np.ndarray = shifted / shifted.sum(1, keepdims=True)
    return probabilities


def nll(logits: np.ndarray, expected: np.ndarray, temperature: float = 1.0) -> float:
    """Return the mean negative log-likelihood of the expected classes (R,). Raises `EmptyInput` without rows."""
    if not len(expected):
        raise EmptyInput("There are no rows to calibrate on.")
    of_class = softmax(logits, temperature)[np.arange(len(expected)), expected]
    return float(-np.log(np.maximum(of_class, 1e-300)).mean())


def fit_temperature(logits: np.ndarray, expected: np.ndarray) -> float:
    """Return the temperature under which the expected classes (R,) are most probable.

    A golden-section search over its logarithm, in which the loss has one minimum. Targets are smoothed by 1 / (R + 2),
    as in Platt scaling, so that the temperature stays finite if every row is right. Raises `EmptyInput` without rows.
    """
    smoothing = 1 / (len(expected) + 2)

    def loss(temperature: float) -> float:
        log_probabilities = np.log(np.maximum(softmax(logits, temperature), 1e-300))
        return (1 - smoothing) * nll(logits, expected, temperature) - smoothing * float(log_probabilities.mean())

    low, high = np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE)
    for _ in range(STEPS):
        left, right = high - GOLDEN_RATIO * (high - low), low + GOLDEN_RATIO * (high - low)
        if loss(float(np.exp(left))) < loss(float(np.exp(right))):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


@dataclass(frozen=True, eq=False)
class Reliability:
    """Answers in bins of their confidence, empty bins left out.

    `confidence` (K,): mean probability; `accuracy` (K,): fraction of correct answers; `count` (K,). `error`: the
    expected calibration error, Σ count · |confidence - accuracy| / R.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray
    error: float


def reliability_diagram(probability: np.ndarray, correct: np.ndarray, bins: int = BINS) -> Reliability:
    """Bin answers by their probability (R,); `correct` (R,): whether each is right. Raises `EmptyInput` if empty."""
    if not len(correct):
        raise EmptyInput("There are no answers to compute a calibration error of.")
    index = np.minimum((np.asarray(probability) * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    kept = count > 0
    confidence = np.bincount(index, weights=probability, minlength=bins)[kept] / count[kept]
    accuracy = np.bincount(index, weights=correct, minlength=bins)[kept] / count[kept]
    error = float((count[kept] * np.abs(confidence - accuracy)).sum() / count.sum())
    return Reliability(confidence, accuracy, count[kept], error)
