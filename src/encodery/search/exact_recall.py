"""How close a store's search is to an exact search with float32 vectors: recall of the ten nearest neighbours.

It is measured on the sample that the post-processing was fitted on, whose float32 vectors are in memory before they
are stored, so no labels are needed. A passage as near as the tenth counts as one of the ten.
Shapes: P passages of the sample, Q of them as queries, H width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from encodery.search.store import Point, Store

NEIGHBOURS = 10
QUERIES = 100
TOLERANCE = 1e-6


def exact_recall(store: Store, sample: Sequence[Point]) -> float | None:
    """Return the mean fraction of ten neighbours found that are among the ten nearest by float32.

    Args:
        sample: (P) stored points with their vectors (H,) in float32.

    Returns None if the sample has at most ten points.
    """
    vector_of = {point.id: point.dense for point in sample if point.dense is not None}
    if len(vector_of) <= NEIGHBOURS:
        return None
    ids, vectors = list(vector_of), np.stack(list(vector_of.values()))
    recalls = []
    for query in range(0, len(ids), max(len(ids) // QUERIES, 1)):
        scores = vectors @ vectors[query]
        scores[query] = -np.inf
        threshold = np.partition(scores, -NEIGHBOURS)[-NEIGHBOURS] - TOLERANCE
        hits = store.search_dense(vectors[query], NEIGHBOURS + 1, among=ids)
        neighbours = [hit.id for hit in hits if hit.id != ids[query]][:NEIGHBOURS]
        score_of = dict(zip(ids, scores, strict=True))
        recalls.append(sum(bool(score_of[name] >= threshold) for name in neighbours) / NEIGHBOURS)
    return round(float(np.mean(recalls)), 4)
