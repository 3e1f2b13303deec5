"""datatrove's MinHash signature for words of any script, in bounded memory and several times faster."""

from __future__ import annotations

import numpy as np
from datatrove.pipeline.dedup import MinhashConfig, MinhashDedupSignature
from datatrove.utils.hashing import HashConfig

from encodery.corpus.words import AnyScriptTokenizer, words

BLOCK_ROWS = 256  # A block of (n-grams, hashes) fits into the processor's cache.
PRIME = np.uint64((1 << 61) - 1)
BITS = np.uint64(61)
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
MAX_WORDS = 1 << 18  # In the cache of word hashes.


def minhash_config(*, ngram_size: int, num_buckets: int, hashes_per_bucket: int, seed: int) -> MinhashConfig:
    """Return the configuration of datatrove's steps."""
    return MinhashConfig(
        n_grams=ngram_size,
        num_buckets=num_buckets,
        hashes_per_bucket=hashes_per_bucket,
        seed=seed,
        hash_config=HashConfig(precision=64, hash_fc="xxhash"),
    )


class WordHashes(dict[str, int]):
    """A cache of 64-bit word hashes; all numbers have the same hash, as in datatrove."""

    def __missing__(self, word: str) -> int:
        from xxhash import xxh64_intdigest

        if len(self) >= MAX_WORDS:
            self.clear()
        value = self[word] = xxh64_intdigest("0" if word.isdigit() else word)
        return value


class SignatureStep(MinhashDedupSignature):  # type: ignore[misc]
    """datatrove's signature step with a faster hash of n-grams, made from the hashes of their lower-case words.

    It works in blocks, so that the table (n-grams, hashes) is never in memory as a whole.
    """

    def __init__(self, folder: str, settings: MinhashConfig) -> None:
        super().__init__(folder, settings, language=AnyScriptTokenizer())
        self.hashes = WordHashes()

    def get_shingles(self, text: str) -> np.ndarray:
        """Return the distinct hashes of the n-grams (n-grams, 1), uint64."""
        tokens = words(text.lower())
        count = len(tokens) - self.config.n_grams + 1
        if count < 1:
            return np.empty((0, 1), dtype=np.uint64)
        single = np.fromiter(map(self.hashes.__getitem__, tokens), dtype=np.uint64, count=len(tokens))
        key = single[:count].copy()
        for offset in range(1, self.config.n_grams):
            key *= MULTIPLIER
            key += single[offset : offset + count]
            key ^= key >> np.uint64(29)
        return np.unique(key).reshape(-1, 1)

    def get_signature(self, shingles: np.ndarray) -> list[list[int]]:
        """Return the minimum of each hash function over the shingles, by bucket."""
        a, b = self.parameters
        minimum = np.full(self.num_hashes, PRIME, dtype=np.uint64)
        for start in range(0, len(shingles), BLOCK_ROWS):
            block = shingles[start : start + BLOCK_ROWS] * a
            block += b
            np.minimum(minimum, modulo(block).min(axis=0), out=minimum)
        return [bucket.tolist() for bucket in np.split(minimum, self.config.num_buckets)]


def modulo(values: np.ndarray) -> np.ndarray:
    """Return `values % (2^61 - 1)`, computed by shifts; `values` is overwritten."""
    high = values >> BITS
    values &= PRIME
    values += high
    # For a value below the prime the subtraction wraps to a huge number, and the minimum keeps the value.
    np.subtract(values, PRIME, out=high)
    np.minimum(values, high, out=values)
    return values
