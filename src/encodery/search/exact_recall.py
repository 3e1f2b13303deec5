"""How near a store's search is to one by float32: of a passage's ten nearest, the share that truly are.

Asked among the sample that an index is fitted on, whose vectors are at hand before they are stored; so no labels are
needed, and what is measured is the store itself. A passage as near as the tenth counts as one of the ten.
Shapes: P passages of the sample, Q of them asked, H width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from encodery.search.store import Point, Store

NEAREST = 10
ASKED = 100
TIE = 1e-6


def exact_recall(store: Store, sample: Sequence[Point]) -> float | None:
    """`sample` (P): stored points with their vectors (H,) in float32. None where there are too few to tell."""
    held = {point.id: point.dense for point in sample if point.dense is not None}
    if len(held) <= NEAREST:
        return None
    ids, vectors = list(held), np.stack(list(held.values()))
    right = []
    for place in range(0, len(ids), max(len(ids) // ASKED, 1)):
        scores = vectors @ vectors[place]
        scores[place] = -np.inf
        least = np.partition(scores, -NEAREST)[-NEAREST] - TIE
        hits = store.search_dense(vectors[place], NEAREST + 1, among=ids)
        found = [hit.id for hit in hits if hit.id != ids[place]][:NEAREST]
        of = dict(zip(ids, scores, strict=True))
        right.append(sum(bool(of[name] >= least) for name in found) / NEAREST)
    return round(float(np.mean(right)), 4)
