"""Compute the metrics of `bench/tasks.py`, the same for every system, with scikit-learn, scipy and seqeval."""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks_data import Labelled


def score(labelled: Labelled, rows: list[dict[str, Any]], predicted: list[Any]) -> float:
    """Return the metric of a data set for predictions in the order of `rows`: labels, numbers, or a tag for each word.

    Missing tags at the end of a truncated sentence count as "O". Raises `ValueError` if the numbers of rows differ.
    """
    if len(rows) != len(predicted):
        raise ValueError(f"{len(predicted)} predictions for {len(rows)} rows.")
    truth = [row[labelled.label] for row in rows]
    if labelled.metric == "spearman":
        import scipy.stats

        return float(scipy.stats.spearmanr(truth, predicted).statistic)
    if labelled.metric == "span_f1":
        import seqeval.metrics

        padded = [tags + ["O"] * (len(true) - len(tags)) for true, tags in zip(truth, predicted, strict=True)]
        return float(seqeval.metrics.f1_score(truth, padded))
    import sklearn.metrics

    truth, predicted = [str(label) for label in truth], [str(label) for label in predicted]
    if labelled.metric == "f1":
        return float(sklearn.metrics.f1_score(truth, predicted, average="macro"))
    return float(sklearn.metrics.accuracy_score(truth, predicted))


def cosines(left: np.ndarray, right: np.ndarray) -> list[float]:
    """Return the cosines of pairs of vectors, both (N, K)."""
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return [float(value) for value in (left * right).sum(1) / np.maximum(norms, 1e-12)]
