"""Pair tasks: do two texts mean the same? Average precision of the cosine, and F1 at the best threshold."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from encodery.base.errors import EmptyInput, InputError
from encodery.evaluate.suites import MetricValue, Suite
from encodery.evaluate.suites._heads import note_unused_head
from encodery.evaluate.suites._pairs import as_ranks, cosines
from encodery.evaluate.suites._rows import read_columns, read_split
from encodery.evaluate.systems import OpenSystem


@dataclass(frozen=True, eq=False)
class LabelledPairs:
    """N pairs, and whether each belongs together (N,) bool."""

    left: list[str]
    right: list[str]
    same: np.ndarray

    def __len__(self) -> int:
        return len(self.left)


@dataclass(frozen=True, kw_only=True)
class PairSuite(Suite):
    """`columns`: those of text_a, text_b and label, guessed where not told. `positive`: the label of pairs that
    belong together; by default 1, with 0 for the others."""

    columns: dict[str, str] = field(default_factory=dict)
    positive: str = "1"
    split: str = ""

    @property
    def main_metric(self) -> str:
        return "ap"

    def read(self, data: Path) -> LabelledPairs:
        found = read_columns(read_split(data, self.split), ("text_a", "text_b", "label"), self.columns)
        labels = [str(value) for value in found["label"]]
        same = np.array(labels) == self.positive
        if same.all() or not same.any():
            known = ", ".join(sorted(set(labels))[:8])
            raise InputError(f"{data}: pairs of both kinds are needed, '{self.positive}' and others; it has {known}.")
        return LabelledPairs(found["text_a"], found["text_b"], same)

    def measure(self, items: LabelledPairs, system: OpenSystem) -> dict[str, MetricValue]:
        note_unused_head(system, "compared")
        ranks = as_ranks(cosines(system, items.left, items.right))
        return {
            "ap": MetricValue.of(average_precision, items.same, ranks),
            "best f1": MetricValue.of(best_f1, items.same, ranks),
        }


def average_precision(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Σ precision · gain in recall over all thresholds, of truth (N,) bool and scores (N,); NaN without positives."""
    right, found = _thresholds(truth, predicted)
    if not truth.any():
        return float("nan")
    gained = np.diff(right, prepend=0) / right[-1]
    return float((gained * right / found).sum())


def best_f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    """The highest F1 over all thresholds, of truth (N,) bool and scores (N,)."""
    if not len(truth):
        raise EmptyInput("There are no pairs.")
    right, found = _thresholds(truth, predicted)
    return float((2 * right / (found + truth.sum())).max())


def _thresholds(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right ones and all found at each distinct threshold, from the highest."""
    order = np.argsort(-predicted, kind="stable")
    last = np.append(np.flatnonzero(np.diff(predicted[order])), len(truth) - 1)
    return np.cumsum(truth[order])[last], last + 1
