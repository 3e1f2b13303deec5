"""Negatives by BM25: passages that share terms with the query. arXiv:2004.04906 (DPR)

They are found by a search that is passed in. A dense retriever must learn to tell them from positives.
Shapes: Q queries, N negatives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from encodery.base.settings import check_at_least
from encodery.embed.negatives import MinedNegatives, NegativeMiner, NegativePool
from encodery.embed.negatives._select import first_negatives


@dataclass(frozen=True, kw_only=True)
class BM25Negatives(NegativeMiner):
    """Use it where there is no embedding model yet. `skip`: best candidates that are left out, since they are the most
    likely to be relevant.

        miner = {is = "bm25", skip = 1}
    """

    skip: int = 0

    def __post_init__(self) -> None:
        check_at_least(self, 0, "skip")

    @property
    def requires(self) -> tuple[str, ...]:
        return ("search",)

    def mine(self, pool: NegativePool, num_negatives: int, seed: int) -> MinedNegatives:
        assert pool.search is not None
        indices = np.full((len(pool.queries), num_negatives), -1, np.int64)
        for row, (query, positives) in enumerate(zip(pool.queries, pool.positives, strict=True)):
            hits = np.array(pool.search(query, self.skip + num_negatives + len(positives)), np.int64)
            candidates = hits[~np.isin(hits, positives)][self.skip :]
            indices[row] = first_negatives(candidates, positives, num_negatives)
        return MinedNegatives(indices, int((indices >= 0).sum()), 0)
