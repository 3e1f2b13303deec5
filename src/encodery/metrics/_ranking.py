"""Relevance grades of the retrieved documents in rank order, for the ranking metrics.

Truth: query -> document -> grade (0 means not relevant). Prediction: query -> document -> score. Equal scores are
ordered by document id, descending, as in trec_eval. A judged query without retrieved documents scores 0; it is not
omitted from the mean.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from encodery.base.errors import EmptyInput

Judgements = Mapping[str, Mapping[str, int]]
Run = Mapping[str, Mapping[str, float]]


def ranked(truth: Judgements, predicted: Run, depth: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return for each judged query (grades of its first `depth` documents, all its positive grades, descending).

    Queries without a relevant document are omitted, because no ranking metric is defined for them.
    Raises `EmptyInput` if no query remains.
    """
    queries = []
    for query, grades in truth.items():
        ideal = np.sort([grade for grade in grades.values() if grade > 0])[::-1].astype(np.float64)
        if not ideal.size:
            continue
        hits = sorted(predicted.get(query, {}).items(), key=lambda pair: (pair[1], pair[0]), reverse=True)[:depth]
        queries.append((np.array([max(grades.get(document, 0), 0) for document, _ in hits], np.float64), ideal))
    if not queries:
        raise EmptyInput("No query has a relevant document, so ranking metrics cannot be computed.")
    return queries
