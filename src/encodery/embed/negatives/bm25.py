"""The passages that share most words with the query. arXiv:2004.04906 (DPR)

Found by a search that is passed in; what looks right to words is what vectors must learn to tell apart.
Shapes: Q queries, N taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from encodery.base.errors import SettingsError
from encodery.embed.negatives import Haystack, Mined, Negatives
from encodery.embed.negatives._take import first_wrong


@dataclass(frozen=True, kw_only=True)
class BM25(Negatives):
    """`skip` the best so many: they are the likeliest to be right."""

    skip: int = 0

    def __post_init__(self) -> None:
        if self.skip < 0:
            raise SettingsError(f"skip = {self.skip}: must not be negative.")

    @property
    def wants(self) -> tuple[str, ...]:
        return ("search",)

    def mine(self, hay: Haystack, count: int, seed: int) -> Mined:
        assert hay.search is not None
        numbers = np.full((len(hay.queries), count), -1, np.int64)
        for row, (query, right) in enumerate(zip(hay.queries, hay.right, strict=True)):
            found = np.array(hay.search(query, self.skip + count + len(right)), np.int64)
            numbers[row] = first_wrong(found[~np.isin(found, right)][self.skip :], right, count)
        return Mined(numbers, int((numbers >= 0).sum()), 0)
