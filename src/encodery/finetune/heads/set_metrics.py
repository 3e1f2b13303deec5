"""Precision, recall and F1 for rows whose answers are sets of labels or spans. Other metrics are in `metrics/`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def micro_f1(expected: Sequence[set[Any]], predicted: Sequence[set[Any]]) -> dict[str, float]:
    """Return precision, recall and F1 over the items of all rows' sets; 0 if there are none."""
    correct = sum(len(a & b) for a, b in zip(expected, predicted, strict=True))
    return precision_recall_f1(correct, sum(map(len, predicted)), sum(map(len, expected)))


def precision_recall_f1(correct: float, predicted: float, expected: float) -> dict[str, float]:
    """Return the same from the numbers of correct, predicted and expected items."""
    return {
        "precision": correct / predicted if predicted else 0.0,
        "recall": correct / expected if expected else 0.0,
        "f1": 2 * correct / (expected + predicted) if expected + predicted else 0.0,
    }
