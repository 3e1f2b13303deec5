"""Calibration: one temperature for all logits, chosen on rows that were not learnt from, and how far it still is off.

Dividing logits by a number leaves every prediction as it is and mends how sure the model claims to be.
arXiv:1706.04599
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
    """(R, C) probabilities of logits (R, C)."""
    scaled = logits.astype(np.float64) / temperature
    shifted = np.exp(scaled - scaled.max(1, keepdims=True))
    found: np.ndarray = shifted / shifted.sum(1, keepdims=True)
    return found


def nll(logits: np.ndarray, truth: np.ndarray, temperature: float = 1.0) -> float:
    """Mean negative log-probability of the true classes (R,). Raises `EmptyInput` without rows."""
    if not len(truth):
        raise EmptyInput("There are no rows to be calibrated on.")
    chosen = softmax(logits, temperature)[np.arange(len(truth)), truth]
    return float(-np.log(np.maximum(chosen, 1e-300)).mean())


def fit_temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """The temperature under which the true classes (R,) are likeliest; a golden-section search over its logarithm,
    in which the loss has one valley. Each truth lends 1 / (R + 2) of itself to all classes, as in Platt's scaling:
    where every row is right, the model is still not made infinitely sure. Raises `EmptyInput` without rows."""
    lent = 1 / (len(truth) + 2)

    def loss(heat: float) -> float:
        chances = np.log(np.maximum(softmax(logits, heat), 1e-300))
        return (1 - lent) * nll(logits, truth, heat) - lent * float(chances.mean())

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
    """Answers by how sure they claimed to be: `sure` (K,) mean probability, `right` (K,) share that was right, `count`
    (K,); empty bins are left out. `error`: the expected calibration error, Σ count · |sure - right| / R."""

    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray
    error: float


def reliability_diagram(probability: np.ndarray, correct: np.ndarray, bins: int = BINS) -> Reliability:
    """Of the probability (R,) given to each answer and whether it was right (R,). Raises `EmptyInput` without rows."""
    if not len(correct):
        raise EmptyInput("There are no answers whose certainty could be judged.")
    place = np.minimum((np.asarray(probability) * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    kept = count > 0
    sure = np.bincount(place, weights=probability, minlength=bins)[kept] / count[kept]
    right = np.bincount(place, weights=correct, minlength=bins)[kept] / count[kept]
    error = float((count[kept] * np.abs(sure - right)).sum() / count.sum())
    return Reliability(sure, right, count[kept], error)
