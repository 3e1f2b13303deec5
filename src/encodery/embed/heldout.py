"""Dev and test examples, tokenised once, and their metrics. Shapes: E examples, C columns, P texts of the pool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from encodery.base.machine import derive_seed
from encodery.embed.examples import EmbeddingExamples
from encodery.embed.heldout_metrics import EncodedTexts, compute_metrics
from encodery.embed.text_pool import TextPool
from encodery.tokens.shuffle import Integers
from encodery.train.lengths import sample_tokens

Compare = Callable[[TextPool, np.ndarray], EncodedTexts]
"""Encodes texts (P,) of a pool as they are compared in use."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Examples `data` as `indices` (E, C) into the texts of a `pool`."""

    data: EmbeddingExamples
    pool: TextPool
    indices: Integers

    def __len__(self) -> int:
        return len(self.data)

    def subset(self, tokens: int) -> HeldOut:
        """Return examples of about this many tokens, all if there are fewer.

        They are drawn at random with a fixed seed, so that runs with several seeds can be compared.
        """
        chosen = sample_tokens(self.pool.lengths[self.indices].sum(1), tokens, derive_seed(0, "dev"))
        if len(chosen) == len(self):
            return self
        return replace(self, data=self.data.take(chosen), indices=self.indices[chosen])

    def metrics(self, compare: Compare) -> dict[str, float]:
        """Return retrieval metrics for pairs and tuples, rank correlation for scored pairs, and the accuracy of nearest
        neighbours for classes."""
        texts, places = np.unique(self.indices, return_inverse=True)
        return compute_metrics(compare(self.pool, texts), places.reshape(self.indices.shape), self.data)
