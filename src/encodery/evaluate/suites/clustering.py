"""Clustering: the V-measure of k-means on embeddings, with as many clusters as labels.

The V-measure is the harmonic mean of homogeneity and completeness. Shapes: N examples, R repeats.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from encodery.base.errors import InputError
from encodery.base.extras import require
from encodery.base.settings import check_at_least
from encodery.evaluate.metric_value import MetricValue
from encodery.evaluate.suites import Suite
from encodery.evaluate.suites._classes import LabelledTexts, labelled_texts
from encodery.evaluate.suites._rows import read_split
from encodery.evaluate.systems import OpenSystem, UnsupportedEvaluation
from encodery.evaluate.unit_length import unit_length

STARTS = 4  # Starts of k-means, of which it keeps the best.


@dataclass(frozen=True, kw_only=True)
class ClusteringSuite(Suite):
    """Use it to compare embeddings by how well clusters of them agree with labels.

    Attributes:
        columns: role -> column, for text and label; others are assigned by name.
        repeats: the number of runs of k-means, which are averaged.
        max_rows: the maximum number of examples, drawn with `seed`.
    """

    columns: dict[str, str] = field(default_factory=dict)
    split: str = ""
    repeats: int = 3
    max_rows: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(self, 1, "repeats", "max_rows")

    @property
    def main_metric(self) -> str:
        return "v-measure"

    def read(self, data: Path) -> LabelledTexts:
        rows = labelled_texts(read_split(data, self.split), self.columns)
        if self.max_rows is not None and self.max_rows < len(rows):
            rows = rows.take(np.sort(np.random.default_rng(self.seed).permutation(len(rows))[: self.max_rows]))
        if len(np.unique(rows.labels)) < 2:
            raise InputError(f"{data}: examples of at least two classes are needed.")
        return rows

    def measure(self, items: LabelledTexts, system: OpenSystem) -> dict[str, MetricValue]:
        if not system.symmetric:
            raise UnsupportedEvaluation(f"{system.name}: retrieves documents for queries and cannot compare two texts.")
        cluster = require("sklearn.cluster", "evaluate")
        system.fit(items.texts)
        vectors = unit_length(system.encode(items.texts))
        _, truth = np.unique(items.labels, return_inverse=True)
        runs = [
            cluster.KMeans(int(truth.max()) + 1, n_init=STARTS, random_state=self.seed + repeat).fit(vectors).labels_
            for repeat in range(self.repeats)
        ]
        return {"v-measure": MetricValue.of(v_measure, truth, np.stack(runs, 1), exchangeable=False)}


def v_measure(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return 2 I(truth, cluster) / (H(truth) + H(cluster)), averaged over repeats: truth (N,), predicted (N, R)."""
    return float(np.mean([_v_measure(truth, column) for column in predicted.T]))


def _v_measure(truth: np.ndarray, clusters: np.ndarray) -> float:
    width = int(clusters.max()) + 1
    joint = np.bincount(truth * width + clusters, minlength=(int(truth.max()) + 1) * width).reshape(-1, width)
    one, other, both = (_entropy(counts) for counts in (joint.sum(1), joint.sum(0), joint.ravel()))
    return 2 * (one + other - both) / (one + other) if one + other else 1.0


def _entropy(counts: np.ndarray) -> float:
    fractions = counts[counts > 0] / counts.sum()
    return float(-(fractions * np.log(fractions)).sum())
