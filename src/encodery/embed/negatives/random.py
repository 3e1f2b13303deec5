"""Passages drawn at random: easy, and hardly ever right by accident. Shapes: Q queries, P passages, N drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from encodery.embed.negatives import MinedNegatives, NegativeMiner, NegativePool
from encodery.embed.negatives._select import first_negatives


@dataclass(frozen=True, kw_only=True)
class RandomNegatives(NegativeMiner):
    """Has no settings."""

    def mine(self, pool: NegativePool, num_negatives: int, seed: int) -> MinedNegatives:
        draw = np.random.default_rng(seed)
        numbers = np.full((len(pool.queries), num_negatives), -1, np.int64)
        for query, right in enumerate(pool.positives):
            some = draw.choice(len(pool.passages), min(num_negatives + len(right), len(pool.passages)), replace=False)
            numbers[query] = first_negatives(some, right, num_negatives)
        return MinedNegatives(numbers, int((numbers >= 0).sum()), 0)
