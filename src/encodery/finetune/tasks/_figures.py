"""Precision, recall and F1 of rows that have sets of answers: labels, spans. Other figures are those of `metrics`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def micro_f1(truth: Sequence[set[Any]], given: Sequence[set[Any]]) -> dict[str, float]:
    """Precision, recall and F1 over all members of the rows' sets; 0 where nothing is found or true."""
    hits = sum(len(a & b) for a, b in zip(truth, given, strict=True))
    true, found = sum(map(len, truth)), sum(map(len, given))
    return {
        "precision": hits / found if found else 0.0,
        "recall": hits / true if true else 0.0,
        "f1": 2 * hits / (true + found) if true + found else 0.0,
    }
