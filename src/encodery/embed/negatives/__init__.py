"""Where wrong answers come from: for each query a few texts that look right and are not.

Shapes: Q queries, P passages, K width of a vector, N wrong answers a query.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from encodery.base.parts import Part

Judge = Callable[[str, Sequence[str]], np.ndarray]
"""A cross-encoder: a query and n texts to n scores, higher is more relevant."""
TextSearch = Callable[[str, int], Sequence[int]]
"""A search by words: a query and how many to numbers of passages, best first."""


@dataclass(frozen=True, eq=False)
class NegativePool:
    """`queries` (Q) and `passages` (P) as texts, and `right`: for each query the numbers of the passages known to be
    right. `vectors`: of queries (Q, K) and passages (P, K), unit length. `judge` and `search` where they can be had."""

    queries: Sequence[str]
    passages: Sequence[str]
    positives: Sequence[np.ndarray]
    vectors: tuple[np.ndarray, np.ndarray] | None = None
    judge: Judge | None = None
    search: TextSearch | None = None


@dataclass(frozen=True, eq=False)
class MinedNegatives:
    """`numbers` (Q, N) int64 of passages, hardest first, -1 where none was left; `looked_at` candidates, of which
    `taken_out` were likely right."""

    numbers: np.ndarray
    num_candidates: int
    num_filtered: int

    @property
    def filtered_fraction(self) -> float:
        """Share of the candidates that the filter took for right answers nobody had labelled."""
        return self.num_filtered / max(self.num_candidates, 1)


class NegativeMiner(Part):
    """Contract of a miner."""

    @property
    def requires(self) -> tuple[str, ...]:
        """Which of "vectors", "judge" and "search" must be in the haystack; none by default."""
        return ()

    @abc.abstractmethod
    def mine(self, pool: NegativePool, num_negatives: int, seed: int) -> MinedNegatives:
        """`count` wrong answers a query, never one of its right ones, none twice; equal arguments, equal answers."""
