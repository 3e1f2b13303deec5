"""Random negatives: easy, and hardly ever relevant. Shapes: Q queries, P passages, N negatives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from encodery.embed.negatives import MinedNegatives, NegativeMiner, NegativePool
from encodery.embed.negatives._select import first_negatives


@dataclass(frozen=True, kw_only=True)
class RandomNegatives(NegativeMiner):
    """Use it as a baseline, or for losses that need a negative. It has no settings.

    miner = "random"
    """

    def mine(self, pool: NegativePool, num_negatives: int, seed: int) -> MinedNegatives:
        draw = np.random.default_rng(seed)
        indices = np.full((len(pool.queries), num_negatives), -1, np.int64)
        for query, positives in enumerate(pool.positives):
            count = min(num_negatives + len(positives), len(pool.passages))
            drawn = draw.choice(len(pool.passages), count, replace=False)
            indices[query] = first_negatives(drawn, positives, num_negatives)
        return MinedNegatives(indices, int((indices >= 0).sum()), 0)
