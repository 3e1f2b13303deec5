"""The judge of `bench/tasks.py`: one figure per set, the same for every system, by scikit-learn, scipy and seqeval."""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks_data import Labelled


def judged(labelled: Labelled, rows: list[dict[str, Any]], predicted: list[Any]) -> float:
    """The set's figure for predictions in the order of `rows`: labels, numbers, or a tag for each word.

    A tagged sentence that was cut short counts as "O" beyond its end. Raises `ValueError` where the numbers differ.
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


def cosines(one: np.ndarray, other: np.ndarray) -> list[float]:
    """The cosine of each row of (N, K) with its partner."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return [float(value) for value in (one * other).sum(1) / np.maximum(lengths, 1e-12)]
