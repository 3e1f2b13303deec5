"""The passages that share most words with the query. arXiv:2004.04906 (DPR)

Found by a search that is passed in; what looks right to words is what vectors must learn to tell apart.
Shapes: Q queries, N taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from encodery.base.errors import SettingsError
from encodery.embed.negatives import MinedNegatives, NegativeMiner, NegativePool
from encodery.embed.negatives._select import first_negatives


@dataclass(frozen=True, kw_only=True)
class BM25Negatives(NegativeMiner):
    """`skip` the best so many: they are the likeliest to be right."""

    skip: int = 0

    def __post_init__(self) -> None:
        if self.skip < 0:
            raise SettingsError(f"skip = {self.skip}: must not be negative.")

    @property
    def requires(self) -> tuple[str, ...]:
        return ("search",)

    def mine(self, pool: NegativePool, num_negatives: int, seed: int) -> MinedNegatives:
        assert pool.search is not None
        numbers = np.full((len(pool.queries), num_negatives), -1, np.int64)
        for row, (query, right) in enumerate(zip(pool.queries, pool.positives, strict=True)):
            found = np.array(pool.search(query, self.skip + num_negatives + len(right)), np.int64)
            numbers[row] = first_negatives(found[~np.isin(found, right)][self.skip :], right, num_negatives)
        return MinedNegatives(numbers, int((numbers >= 0).sum()), 0)
