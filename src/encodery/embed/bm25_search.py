"""BM25 over a few passages in memory, to mine wrong answers with; a search for users is `encodery.search`.

Robertson's formula as Lucene has it, over words of letters and digits in lower case. Shapes: P passages.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

WORD = re.compile(r"\w+")
K1, B = 1.2, 0.75


class BM25Search:
    """Called with a query and a number, gives the numbers of the passages that match best, best first."""

    def __init__(self, passages: Sequence[str]) -> None:
        found: dict[str, list[tuple[int, int]]] = {}
        lengths = np.zeros(len(passages))
        for number, passage in enumerate(passages):
            words = Counter(_words(passage))
            lengths[number] = words.total()
            for word, count in words.items():
                found.setdefault(word, []).append((number, count))
        shortness = K1 * (1 - B + B * lengths / max(lengths.mean() if len(lengths) else 1.0, 1e-9))
        self.size = len(passages)
        self.postings: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for word, places in found.items():
            numbers, counts = np.array(places, np.int64).T
            rarity = np.log(1 + (self.size - len(numbers) + 0.5) / (len(numbers) + 0.5))
            self.postings[word] = numbers, rarity * counts / (counts + shortness[numbers])

    def __call__(self, query: str, count: int) -> list[int]:
        scores = np.zeros(self.size)
        for word in _words(query):
            if word in self.postings:
                numbers, weights = self.postings[word]
                scores[numbers] += weights
        order = np.argsort(-scores, kind="stable")[:count]
        return [int(number) for number in order if scores[number] > 0]


def _words(text: str) -> list[str]:
    return [word.lower() for word in WORD.findall(text)]
