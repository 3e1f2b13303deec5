"""What the ranking metrics share: the grades of the retrieved documents in rank order.

Truth: query -> document -> grade (0 is not relevant). Prediction: query -> document -> score. Equal scores are
ordered by document id, descending, as trec_eval does. A query without an answer counts as zero, never as absent.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from encodery.base.errors import EmptyInput

Judgements = Mapping[str, Mapping[str, int]]
Run = Mapping[str, Mapping[str, float]]


def ranked(truth: Judgements, predicted: Run, depth: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each judged query: (grades of its first `depth` documents, all its positive grades descending).

    Queries without a relevant document are left out, as they have no figure. Raises `EmptyInput` if none is left.
    """
    rows = []
    for query, grades in truth.items():
        ideal = np.sort([grade for grade in grades.values() if grade > 0])[::-1].astype(np.float64)
        if not ideal.size:
            continue
        found = sorted(predicted.get(query, {}).items(), key=lambda pair: (pair[1], pair[0]), reverse=True)[:depth]
        rows.append((np.array([max(grades.get(document, 0), 0) for document, _ in found], np.float64), ideal))
    if not rows:
        raise EmptyInput("No query has a relevant document: nothing can be measured.")
    return rows
