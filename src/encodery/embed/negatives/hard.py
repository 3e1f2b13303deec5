"""The passages nearest to a query by the model's own vectors, less those too near to be wrong. arXiv:2407.15831

NV-Retriever's filter: a candidate whose similarity comes within `margin` of the right answer's is likely right itself,
and is left out; a share of the right answer's similarity (`relative`) did best there, at 0.95 of it. Blocks of queries
against blocks of passages keep memory bounded whatever Q and P are. Shapes: Q queries, P passages, K width, D depth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from encodery.base.errors import SettingsError
from encodery.embed.negatives import MinedNegatives, NegativeMiner, NegativePool
from encodery.embed.negatives._select import first_negatives

BLOCK = 1024, 16_384  # Queries and passages compared at once: 64 MB of similarities.


@dataclass(frozen=True, kw_only=True)
class HardNegatives(NegativeMiner):
    """`skip` the nearest so many, then look at `depth`. `margin`: 0.05 of the right answer's similarity if `relative`,
    else 0.05 less than it. `highest`: never a candidate more similar than this."""

    skip: int = 0
    depth: int = 100
    margin: float = 0.05
    relative: bool = True
    max_similarity: float = 1.0

    def __post_init__(self) -> None:
        if self.skip < 0 or self.depth < 1 or self.margin < 0:
            raise SettingsError(
                f"skip = {self.skip}, depth = {self.depth}, margin = {self.margin}: at least 0, 1 and 0."
            )

    @property
    def requires(self) -> tuple[str, ...]:
        return ("vectors",)

    def mine(self, pool: NegativePool, num_negatives: int, seed: int) -> MinedNegatives:
        assert pool.vectors is not None
        queries, passages = pool.vectors
        numbers = np.full((len(queries), num_negatives), -1, np.int64)
        looked_at = taken_out = 0
        for first in range(0, len(queries), BLOCK[0]):
            some = queries[first : first + BLOCK[0]]
            rights = pool.positives[first : first + BLOCK[0]]
            room = self.skip + self.depth + max((len(right) for right in rights), default=0)
            nearest, similarity = nearest_passages(some, passages, room)
            for row, right in enumerate(rights):
                wrong = ~np.isin(nearest[row], right)
                found, scores = nearest[row][wrong][self.skip :], similarity[row][wrong][self.skip :]
                kept = scores <= min(self._limit(some[row], passages, right), self.max_similarity)
                looked_at, taken_out = looked_at + len(kept), taken_out + int((~kept).sum())
                numbers[first + row] = first_negatives(found[kept], right, num_negatives)
        return MinedNegatives(numbers, looked_at, taken_out)

    def _limit(self, query: np.ndarray, passages: np.ndarray, right: np.ndarray) -> float:
        """How similar a wrong answer may be: by the least similar of the right ones."""
        if not len(right):
            return np.inf
        similarity = float((passages[right] @ query).min())
        return similarity - (abs(similarity) * self.margin if self.relative else self.margin)


def nearest_passages(queries: np.ndarray, passages: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and similarities (Q, D) of the nearest passages, nearest first."""
    best = np.zeros((len(queries), 0), np.int64)
    scores = np.zeros((len(queries), 0), np.float32)
    for first in range(0, len(passages), BLOCK[1]):
        block = queries @ passages[first : first + BLOCK[1]].T
        numbers = np.broadcast_to(np.arange(first, first + block.shape[1]), block.shape)
        best, scores = np.concatenate([best, numbers], axis=1), np.concatenate([scores, block], axis=1)
        if count < scores.shape[1]:
            kept = np.argpartition(-scores, count - 1, axis=1)[:, :count]
            best, scores = np.take_along_axis(best, kept, axis=1), np.take_along_axis(scores, kept, axis=1)
    order = np.lexsort((best, -scores), axis=1)
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(scores, order, axis=1)
