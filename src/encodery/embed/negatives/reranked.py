"""The candidates of another miner, looked through by a cross-encoder. arXiv:2010.08191 (RocketQA's denoising)

A candidate that the judge scores within `margin` of the right answer, or above it, is likely right and left out.
Differs from the inner miner by that. Shapes: Q queries, N taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from encodery.base.errors import SettingsError
from encodery.embed.negatives import Haystack, Mined, Negatives
from encodery.embed.negatives._take import first_wrong


@dataclass(frozen=True, kw_only=True)
class Reranked(Negatives):
    """`miner`: who finds the candidates, `depth` for each query; `margin`: how far below the worst right answer, in the
    judge's scores, a candidate must be."""

    miner: Negatives
    depth: int = 20
    margin: float = 0.0

    def __post_init__(self) -> None:
        if self.depth < 1 or self.margin < 0:
            raise SettingsError(f"depth = {self.depth}, margin = {self.margin}: at least 1 and 0.")

    @property
    def wants(self) -> tuple[str, ...]:
        return (*self.miner.wants, "judge")

    def mine(self, hay: Haystack, count: int, seed: int) -> Mined:
        assert hay.judge is not None
        inner = self.miner.mine(hay, max(self.depth, count), seed)
        numbers = np.full((len(hay.queries), count), -1, np.int64)
        looked_at = taken_out = 0
        for row, query in enumerate(hay.queries):
            right, found = hay.right[row], inner.numbers[row][inner.numbers[row] >= 0]
            if not len(found):
                continue
            texts = [hay.passages[int(number)] for number in (*right, *found)]
            scores = np.asarray(hay.judge(query, texts))
            limit = scores[: len(right)].min() - self.margin if len(right) else np.inf
            kept = scores[len(right) :] < limit
            looked_at, taken_out = looked_at + len(kept), taken_out + int((~kept).sum())
            numbers[row] = first_wrong(found[kept], right, count)
        return Mined(numbers, looked_at, taken_out)
