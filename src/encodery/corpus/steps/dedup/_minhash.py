"""datatrove's MinHash signature with words of any script, in bounded memory, several times faster."""

from __future__ import annotations

import numpy as np
from datatrove.pipeline.dedup import MinhashConfig, MinhashDedupSignature
from datatrove.utils.hashing import HashConfig

from encodery.corpus.words import AnyScriptTokenizer, words

ROWS = 256  # A block of (rows, hashes) stays in the processor's cache.
PRIME = np.uint64((1 << 61) - 1)
BITS = np.uint64(61)
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
MOST_WORDS = 1 << 18  # Kept in the cache of word hashes.


def minhash_config(*, ngram_size: int, num_buckets: int, hashes_per_bucket: int, seed: int) -> MinhashConfig:
    """What datatrove's steps are told."""
    return MinhashConfig(
        n_grams=ngram_size,
        num_buckets=num_buckets,
        hashes_per_bucket=hashes_per_bucket,
        seed=seed,
        hash_config=HashConfig(precision=64, hash_fc="xxhash"),
    )


class WordHashes(dict[str, int]):
    """64-bit hash of a word; all numbers are one word, as in datatrove."""

    def __missing__(self, word: str) -> int:
        from xxhash import xxh64_intdigest

        if len(self) >= MOST_WORDS:
            self.clear()
        value = self[word] = xxh64_intdigest("0" if word.isdigit() else word)
        return value


class SignatureStep(MinhashDedupSignature):  # type: ignore[misc]
    """Differs from datatrove's in how n-grams are hashed (from the hashes of their lower-case words) and in working
    by blocks: the table (n-grams, hashes) is never whole."""

    def __init__(self, folder: str, settings: MinhashConfig) -> None:
        super().__init__(folder, settings, language=AnyScriptTokenizer())
        self.hashes = WordHashes()

    def get_shingles(self, text: str) -> np.ndarray:
        """Hashes of the n-grams, each once. Shape (n-grams, 1), uint64."""
        found = words(text.lower())
        count = len(found) - self.config.n_grams + 1
        if count < 1:
            return np.empty((0, 1), dtype=np.uint64)
        single = np.fromiter(map(self.hashes.__getitem__, found), dtype=np.uint64, count=len(found))
        key = single[:count].copy()
        for offset in range(1, self.config.n_grams):
            key *= MULTIPLIER
            key += single[offset : offset + count]
            key ^= key >> np.uint64(29)
        return np.unique(key).reshape(-1, 1)

    def get_signature(self, shingles: np.ndarray) -> list[list[int]]:
        """The least value of each hash function over the shingles, by bucket."""
        a, b = self.parameters
        least = np.full(self.num_hashes, PRIME, dtype=np.uint64)
        for start in range(0, len(shingles), ROWS):
            block = shingles[start : start + ROWS] * a
            block += b
            np.minimum(least, modulo(block).min(axis=0), out=least)
        return [part.tolist() for part in np.split(least, self.config.num_buckets)]


def modulo(values: np.ndarray) -> np.ndarray:
    """`values % (2^61 - 1)` by shifts; changes `values`."""
    high = values >> BITS
    values &= PRIME
    values += high
    # Below the prime the subtraction wraps to a huge number, and the minimum leaves the value.
    np.subtract(values, PRIME, out=high)
    np.minimum(values, high, out=values)
    return values
