"""datatrove's MinHash signature with words of any script, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from datatrove.pipeline.dedup import MinhashConfig, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import _mersenne_prime
from datatrove.utils.hashing import HashConfig
from datatrove.utils.text import TextNormConfig

from encodery.corpus.words import Words

if TYPE_CHECKING:
    from encodery.corpus.steps.dedup.minhash import Minhash

ROWS = 2048


def config(part: Minhash) -> MinhashConfig:
    """Marks stay on their letters: without them words of many scripts collapse."""
    return MinhashConfig(
        n_grams=part.words,
        num_buckets=part.buckets,
        hashes_per_bucket=part.hashes,
        seed=part.seed,
        norm_config=TextNormConfig(norm_unicode_diacritics=False),
        hash_config=HashConfig(precision=64, hash_fc="xxhash"),
    )


class SignatureStep(MinhashDedupSignature):  # type: ignore[misc]
    """The same signatures as datatrove's, computed over blocks of n-grams: (n-grams, hashes) is never whole."""

    def __init__(self, folder: str, settings: MinhashConfig) -> None:
        super().__init__(folder, settings, language=Words())

    def get_signature(self, shingles: np.ndarray) -> list[list[int]]:
        a, b = self.parameters
        least = np.full(self.num_hashes, np.iinfo(np.uint64).max, dtype=np.uint64)
        unique = np.unique(shingles).reshape(-1, 1)
        for start in range(0, len(unique), ROWS):
            block = unique[start : start + ROWS] * a
            block += b
            block %= _mersenne_prime
            np.minimum(least, block.min(axis=0), out=least)
        return [part.tolist() for part in np.split(least, self.config.num_buckets)]
