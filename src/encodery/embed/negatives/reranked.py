"""The candidates of another miner, looked through by a cross-encoder. arXiv:2010.08191 (RocketQA's denoising)

A candidate that the judge scores within `margin` of the right answer, or above it, is likely right and left out.
Differs from the inner miner by that. Shapes: Q queries, N taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from encodery.base.errors import SettingsError
from encodery.embed.negatives import MinedNegatives, NegativeMiner, NegativePool
from encodery.embed.negatives._select import first_negatives


@dataclass(frozen=True, kw_only=True)
class RerankedNegatives(NegativeMiner):
    """`miner`: who finds the candidates, `depth` for each query; `margin`: how far below the worst right answer, in the
    judge's scores, a candidate must be."""

    miner: NegativeMiner
    depth: int = 20
    margin: float = 0.0

    def __post_init__(self) -> None:
        if self.depth < 1 or self.margin < 0:
            raise SettingsError(f"depth = {self.depth}, margin = {self.margin}: at least 1 and 0.")

    @property
    def requires(self) -> tuple[str, ...]:
        return (*self.miner.requires, "judge")

    def mine(self, pool: NegativePool, num_negatives: int, seed: int) -> MinedNegatives:
        assert pool.judge is not None
        inner = self.miner.mine(pool, max(self.depth, num_negatives), seed)
        numbers = np.full((len(pool.queries), num_negatives), -1, np.int64)
        looked_at = taken_out = 0
        for row, query in enumerate(pool.queries):
            right, found = pool.positives[row], inner.numbers[row][inner.numbers[row] >= 0]
            if not len(found):
                continue
            texts = [pool.passages[int(number)] for number in (*right, *found)]
            scores = np.asarray(pool.judge(query, texts))
            limit = scores[: len(right)].min() - self.margin if len(right) else np.inf
            kept = scores[len(right) :] < limit
            looked_at, taken_out = looked_at + len(kept), taken_out + int((~kept).sum())
            numbers[row] = first_negatives(found[kept], right, num_negatives)
        return MinedNegatives(numbers, looked_at, taken_out)
