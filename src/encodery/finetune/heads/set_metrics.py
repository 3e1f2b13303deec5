"""Precision, recall and F1 of rows that have sets of answers: labels, spans. Other figures are those of `metrics`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def micro_f1(expected: Sequence[set[Any]], predicted: Sequence[set[Any]]) -> dict[str, float]:
    """Precision, recall and F1 over all members of the rows' sets; 0 where nothing is found or true."""
    hits = sum(len(a & b) for a, b in zip(expected, predicted, strict=True))
    return precision_recall_f1(hits, sum(map(len, predicted)), sum(map(len, expected)))


def precision_recall_f1(correct: float, predicted: float, expected: float) -> dict[str, float]:
    """The same from how many members are given and true, are given, are true."""
    return {
        "precision": correct / predicted if predicted else 0.0,
        "recall": correct / expected if expected else 0.0,
        "f1": 2 * correct / (expected + predicted) if expected + predicted else 0.0,
    }
