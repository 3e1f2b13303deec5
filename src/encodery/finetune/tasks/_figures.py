"""Precision, recall and F1 of rows that have sets of answers: labels, spans. Other figures are those of `metrics`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def micro_f1(truth: Sequence[set[Any]], given: Sequence[set[Any]]) -> dict[str, float]:
    """Precision, recall and F1 over all members of the rows' sets; 0 where nothing is found or true."""
    hits = sum(len(a & b) for a, b in zip(truth, given, strict=True))
    return ratios(hits, sum(map(len, given)), sum(map(len, truth)))


def ratios(hits: float, given: float, true: float) -> dict[str, float]:
    """The same from how many members are given and true, are given, are true."""
    return {
        "precision": hits / given if given else 0.0,
        "recall": hits / true if true else 0.0,
        "f1": 2 * hits / (true + given) if true + given else 0.0,
    }
