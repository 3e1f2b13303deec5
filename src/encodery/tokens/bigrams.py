"""How new_counts each id follows each other id: counts over the first tokens of a split, within documents.

Pairs are sorted for a part of the split at a time, so memory depends on the number of different pairs, not on V².
Shapes: V vocabulary, P different pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from encodery.tokens.shuffle import Integers
from encodery.tokens.store import TokenSplit

TOKENS_AT_ONCE = 4_000_000  # tokens sorted together


@dataclass(frozen=True)
class BigramCounts:
    """`left` and `right` (P,): ids of which the second follows the first, `counts` (P,) times; `token_counts` (V,): the
    occurrences of each id."""

    left: Integers
    right: Integers
    counts: Integers
    token_counts: Integers


def bigram_counts(split: TokenSplit, vocab_size: int, max_tokens: int) -> BigramCounts:
    """Count the first `max_tokens` tokens of a split with a vocabulary of `vocab_size`."""
    keys, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    token_counts = np.zeros(vocab_size, np.int64)
    for start, shard in zip(split.starts, split.shards, strict=False):
        for begin in range(0, min(len(shard), max_tokens - int(start)), TOKENS_AT_ONCE):
            end = min(begin + TOKENS_AT_ONCE, len(shard), max_tokens - int(start))
            ids = shard[begin : end + 1].astype(np.int64)  # with the first token of the next part
            token_counts += np.bincount(ids[: end - begin], minlength=vocab_size)
            boundaries = split.offsets[(split.offsets > start + begin) & (split.offsets < start + begin + len(ids))]
            within = np.delete(ids[:-1] * vocab_size + ids[1:], boundaries - (start + begin) - 1)
            new, new_counts = np.unique(within, return_counts=True)
            merged, inverse = np.unique(np.concatenate([keys, new]), return_inverse=True)
            counts = np.bincount(inverse, np.concatenate([counts, new_counts]), len(merged)).astype(np.int64)
            keys = merged
    return BigramCounts(keys // vocab_size, keys % vocab_size, counts, token_counts)
