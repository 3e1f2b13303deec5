"""BM25 over a few passages in memory, for mining negatives; a search for users is `encodery.search`.

Lucene's variant of Robertson's formula, over lower-cased runs of letters and digits. Shapes: P passages.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

TERM = re.compile(r"\w+")
K1, B = 1.2, 0.75


class BM25Search:
    """An index of P passages. A call with a query and a number returns the indices of the best passages, best first."""

    def __init__(self, passages: Sequence[str]) -> None:
        occurrences: dict[str, list[tuple[int, int]]] = {}
        lengths = np.zeros(len(passages))
        for index, passage in enumerate(passages):
            terms = Counter(_terms(passage))
            lengths[index] = terms.total()
            for term, count in terms.items():
                occurrences.setdefault(term, []).append((index, count))
        saturation = K1 * (1 - B + B * lengths / max(lengths.mean() if len(lengths) else 1.0, 1e-9))
        self.size = len(passages)
        self.postings: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for term, pairs in occurrences.items():
            indices, counts = np.array(pairs, np.int64).T
            idf = np.log(1 + (self.size - len(indices) + 0.5) / (len(indices) + 0.5))
            self.postings[term] = indices, idf * counts / (counts + saturation[indices])

    def __call__(self, query: str, count: int) -> list[int]:
        """Return the indices of at most `count` passages that share a term with the query, best first."""
        scores = np.zeros(self.size)
        for term in _terms(query):
            if term in self.postings:
                indices, weights = self.postings[term]
                scores[indices] += weights
        order = np.argsort(-scores, kind="stable")[:count]
        return [int(index) for index in order if scores[index] > 0]


def _terms(text: str) -> list[str]:
    return [term.lower() for term in TERM.findall(text)]
