"""Hard negatives: the passages nearest to a query by the model's own embeddings, without probable false negatives.

The filter is that of NV-Retriever (arXiv:2407.15831): a candidate whose similarity comes within `margin` of the
positive's is probably relevant itself and left out. A fraction of the positive's similarity (`relative`) worked best
there, at 0.95 of it. Blocks of queries are compared with blocks of passages, so that memory is bounded for any Q and P.
Shapes: Q queries, P passages, K dimensions, D candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from encodery.base.settings import check_at_least
from encodery.embed.negatives import MinedNegatives, NegativeMiner, NegativePool
from encodery.embed.negatives._select import first_negatives

BLOCK = 1024, 16_384  # Queries and passages compared at once: 64 MB of similarities.


@dataclass(frozen=True, kw_only=True)
class HardNegatives(NegativeMiner):
    """Use it with a model that already retrieves; it is the default of `encodery embed mine-negatives`.

    `skip`: nearest passages that are left out; `depth`: candidates looked at after them. `margin`: with `relative`, a
    fraction of the positive's similarity, otherwise a difference from it. `max_similarity`: no candidate that is more
    similar than this.

        miner = {is = "hard", margin = 0.05, depth = 100}
    """

    skip: int = 0
    depth: int = 100
    margin: float = 0.05
    relative: bool = True
    max_similarity: float = 1.0

    def __post_init__(self) -> None:
        check_at_least(self, 0, "skip", "margin")
        check_at_least(self, 1, "depth")

    @property
    def requires(self) -> tuple[str, ...]:
        return ("vectors",)

    def mine(self, pool: NegativePool, num_negatives: int, seed: int) -> MinedNegatives:
        assert pool.vectors is not None
        queries, passages = pool.vectors
        indices = np.full((len(queries), num_negatives), -1, np.int64)
        num_candidates = num_filtered = 0
        for first in range(0, len(queries), BLOCK[0]):
            block = queries[first : first + BLOCK[0]]
            block_positives = pool.positives[first : first + BLOCK[0]]
            depth = self.skip + self.depth + max((len(positives) for positives in block_positives), default=0)
            nearest, similarity = nearest_passages(block, passages, depth)
            for row, positives in enumerate(block_positives):
                negative = ~np.isin(nearest[row], positives)
                candidates, scores = nearest[row][negative][self.skip :], similarity[row][negative][self.skip :]
                kept = scores <= min(self._limit(block[row], passages, positives), self.max_similarity)
                num_candidates, num_filtered = num_candidates + len(kept), num_filtered + int((~kept).sum())
                indices[first + row] = first_negatives(candidates[kept], positives, num_negatives)
        return MinedNegatives(indices, num_candidates, num_filtered)

    def _limit(self, query: np.ndarray, passages: np.ndarray, positives: np.ndarray) -> float:
        """The highest similarity of a negative, from the lowest of the positives."""
        if not len(positives):
            return np.inf
        similarity = float((passages[positives] @ query).min())
        return similarity - (abs(similarity) * self.margin if self.relative else self.margin)


def nearest_passages(queries: np.ndarray, passages: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Return indices and similarities (Q, D) of the nearest passages (P, K) of queries (Q, K), nearest first."""
    best = np.zeros((len(queries), 0), np.int64)
    scores = np.zeros((len(queries), 0), np.float32)
    for first in range(0, len(passages), BLOCK[1]):
        block = queries @ passages[first : first + BLOCK[1]].T
        indices = np.broadcast_to(np.arange(first, first + block.shape[1]), block.shape)
        best, scores = np.concatenate([best, indices], axis=1), np.concatenate([scores, block], axis=1)
        if depth < scores.shape[1]:
            kept = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
            best, scores = np.take_along_axis(best, kept, axis=1), np.take_along_axis(scores, kept, axis=1)
    order = np.lexsort((best, -scores), axis=1)
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(scores, order, axis=1)
