"""Pair classification: average precision of the cosine of two texts, and F1 at the best threshold."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from encodery.base.errors import EmptyInput, InputError
from encodery.evaluate.metric_value import MetricValue
from encodery.evaluate.suites import Suite
from encodery.evaluate.suites._heads import note_unused_head
from encodery.evaluate.suites._pairs import as_ranks, cosines
from encodery.evaluate.suites._rows import read_columns, read_split
from encodery.evaluate.systems import OpenSystem


@dataclass(frozen=True, eq=False)
class LabelledPairs:
    """N pairs, and whether each is positive (N,) bool."""

    left: list[str]
    right: list[str]
    same: np.ndarray

    def __len__(self) -> int:
        return len(self.left)


@dataclass(frozen=True, kw_only=True)
class PairSuite(Suite):
    """Use it for paraphrases, duplicates and other pairs of texts with two labels.

    Attributes:
        columns: role -> column, for text_a, text_b and label; others are assigned by name.
        positive: the label of positive pairs.
    """

    columns: dict[str, str] = field(default_factory=dict)
    positive: str = "1"
    split: str = ""

    @property
    def main_metric(self) -> str:
        return "ap"

    def read(self, data: Path) -> LabelledPairs:
        columns = read_columns(read_split(data, self.split), ("text_a", "text_b", "label"), self.columns)
        labels = [str(value) for value in columns["label"]]
        same = np.array(labels) == self.positive
        if same.all() or not same.any():
            known = ", ".join(sorted(set(labels))[:8])
            raise InputError(
                f"{data}: pairs with the label '{self.positive}' and with others are needed; the labels are {known}."
            )
        return LabelledPairs(columns["text_a"], columns["text_b"], same)

    def measure(self, items: LabelledPairs, system: OpenSystem) -> dict[str, MetricValue]:
        note_unused_head(system, "compared")
        ranks = as_ranks(cosines(system, items.left, items.right))
        return {
            "ap": MetricValue.of(average_precision, items.same, ranks),
            "best f1": MetricValue.of(best_f1, items.same, ranks),
        }


def average_precision(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return Σ precision · gain in recall over all thresholds: truth (N,) bool, scores (N,); NaN without positives."""
    hits, retrieved = _thresholds(truth, predicted)
    if not truth.any():
        return float("nan")
    gains = np.diff(hits, prepend=0) / hits[-1]
    return float((gains * hits / retrieved).sum())


def best_f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the highest F1 over all thresholds, of truth (N,) bool and scores (N,)."""
    if not len(truth):
        raise EmptyInput("There are no pairs.")
    hits, retrieved = _thresholds(truth, predicted)
    return float((2 * hits / (retrieved + truth.sum())).max())


def _thresholds(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of hits and of retrieved pairs at each distinct threshold, from the highest."""
    order = np.argsort(-predicted, kind="stable")
    last = np.append(np.flatnonzero(np.diff(predicted[order])), len(truth) - 1)
    return np.cumsum(truth[order])[last], last + 1
