"""Denoised negatives: the candidates of another miner, filtered by a cross-encoder. arXiv:2010.08191 (RocketQA)

A candidate that the judge scores within `margin` of the positive, or above it, is probably relevant and left out.
Differs from the inner miner by that. Shapes: Q queries, N negatives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from encodery.base.settings import check_at_least
from encodery.embed.negatives import MinedNegatives, NegativeMiner, NegativePool
from encodery.embed.negatives._select import first_negatives


@dataclass(frozen=True, kw_only=True)
class RerankedNegatives(NegativeMiner):
    """Use it where a cross-encoder is at hand (`--judge`) and many relevant passages are not labelled.

    `miner`: finds the candidates, `depth` for each query; `margin`: how far a candidate must be below the lowest
    positive, in the judge's scores.

        miner = {is = "reranked", miner = "hard", depth = 20}
    """

    miner: NegativeMiner
    depth: int = 20
    margin: float = 0.0

    def __post_init__(self) -> None:
        check_at_least(self, 1, "depth")
        check_at_least(self, 0, "margin")

    @property
    def requires(self) -> tuple[str, ...]:
        return (*self.miner.requires, "judge")

    def mine(self, pool: NegativePool, num_negatives: int, seed: int) -> MinedNegatives:
        assert pool.judge is not None
        inner = self.miner.mine(pool, max(self.depth, num_negatives), seed)
        indices = np.full((len(pool.queries), num_negatives), -1, np.int64)
        num_candidates = num_filtered = 0
        for row, query in enumerate(pool.queries):
            positives, candidates = pool.positives[row], inner.indices[row][inner.indices[row] >= 0]
            if not len(candidates):
                continue
            texts = [pool.passages[int(index)] for index in (*positives, *candidates)]
            scores = np.asarray(pool.judge(query, texts))
            limit = scores[: len(positives)].min() - self.margin if len(positives) else np.inf
            kept = scores[len(positives) :] < limit
            num_candidates, num_filtered = num_candidates + len(kept), num_filtered + int((~kept).sum())
            indices[row] = first_negatives(candidates[kept], positives, num_negatives)
        return MinedNegatives(indices, num_candidates, num_filtered)
