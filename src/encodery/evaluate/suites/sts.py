"""Semantic textual similarity: the rank correlation of cosines with human ratings of pairs of texts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from encodery.base.errors import EmptyInput
from encodery.base.extras import require
from encodery.evaluate.metric_value import MetricValue
from encodery.evaluate.suites import Suite
from encodery.evaluate.suites._heads import note_unused_head
from encodery.evaluate.suites._pairs import as_ranks, cosines
from encodery.evaluate.suites._rows import read_columns, read_split
from encodery.evaluate.systems import OpenSystem


@dataclass(frozen=True, eq=False)
class RatedPairs:
    """N pairs and their ratings (N,)."""

    left: list[str]
    right: list[str]
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.left)


@dataclass(frozen=True, kw_only=True)
class STSSuite(Suite):
    """Use it to compare embeddings by how well their cosines agree with ratings.

    Attributes:
        columns: role -> column, for text_a, text_b and score; others are assigned by name.
        split: empty for test, else dev, else the first split.
    """

    columns: dict[str, str] = field(default_factory=dict)
    split: str = ""

    @property
    def main_metric(self) -> str:
        return "spearman"

    def read(self, data: Path) -> RatedPairs:
        columns = read_columns(read_split(data, self.split), ("text_a", "text_b", "score"), self.columns)
        scores = np.array(columns["score"])
        if len(np.unique(scores)) < 2:
            raise EmptyInput(f"{data}: all pairs have the same rating, so a correlation is not defined.")
        return RatedPairs(columns["text_a"], columns["text_b"], scores)

    def measure(self, items: RatedPairs, system: OpenSystem) -> dict[str, MetricValue]:
        note_unused_head(system, "compared")
        similarities = cosines(system, items.left, items.right)
        ranks = as_ranks(similarities)
        return {
            "spearman": MetricValue.of(spearman, items.scores, ranks),
            "pearson": MetricValue.of(_correlation, items.scores, similarities, exchangeable=False),
        }


def spearman(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the rank correlation of (N,) with (N,); equal values get their mean rank; NaN if either is constant."""
    rank = require("scipy.stats", "evaluate").rankdata
    return _correlation(rank(truth), rank(predicted))


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one - one.mean(), other - other.mean()
    size = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / size if size else float("nan")
