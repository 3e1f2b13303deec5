"""Miners of negatives: for each query, passages that look relevant and are not.

Shapes: Q queries, P passages, K dimensions of a vector, N negatives per query.
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
"""A term search: a query and a number n to the indices of n passages, best first."""


@dataclass(frozen=True, eq=False)
class NegativePool:
    """What negatives are mined from.

    Args:
        queries: Q texts.
        passages: P texts.
        positives: for each query, the indices of the passages that are known to be relevant.
        vectors: of queries (Q, K) and passages (P, K), of unit length, where a miner requires them.
        judge: a cross-encoder, where a miner requires one.
        search: a term search over the passages, where a miner requires one.
    """

    queries: Sequence[str]
    passages: Sequence[str]
    positives: Sequence[np.ndarray]
    vectors: tuple[np.ndarray, np.ndarray] | None = None
    judge: Judge | None = None
    search: TextSearch | None = None


@dataclass(frozen=True, eq=False)
class MinedNegatives:
    """`indices` (Q, N) int64 of passages, hardest first, -1 where none was left; of `num_candidates` candidates
    `num_filtered` were left out as probable false negatives."""

    indices: np.ndarray
    num_candidates: int
    num_filtered: int

    @property
    def filtered_fraction(self) -> float:
        """Fraction of the candidates that were left out as probable false negatives."""
        return self.num_filtered / max(self.num_candidates, 1)


class NegativeMiner(Part):
    """Contract of a miner."""

    @property
    def requires(self) -> tuple[str, ...]:
        """Which of "vectors", "judge" and "search" the pool must have; none by default."""
        return ()

    @abc.abstractmethod
    def mine(self, pool: NegativePool, num_negatives: int, seed: int) -> MinedNegatives:
        """Return negatives of every query, never one of its positives, none twice; equal for equal arguments."""
