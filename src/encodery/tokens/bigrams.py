"""Which ids stand side by side, and how often: counts over the first tokens of a split, within documents.

Pairs are sorted a part of the split at a time, so memory follows the number of different pairs, not V².
Shapes: V vocabulary, P different pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from encodery.tokens.shuffle import Integers
from encodery.tokens.store import TokenSplit

PART = 4_000_000  # tokens sorted at once


@dataclass(frozen=True)
class BigramCounts:
    """`left` and `right` (P,) ids of which the second follows the first, `count` (P,) how often; `seen` (V,) how often
    each id occurs."""

    left: Integers
    right: Integers
    counts: Integers
    token_counts: Integers


def bigram_counts(split: TokenSplit, vocab_size: int, max_tokens: int) -> BigramCounts:
    """Of the first `most` tokens of a split with a vocabulary of `size`."""
    keys, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    seen = np.zeros(vocab_size, np.int64)
    for start, shard in zip(split.starts, split.shards, strict=False):
        for begin in range(0, min(len(shard), max_tokens - int(start)), PART):
            end = min(begin + PART, len(shard), max_tokens - int(start))
            ids = shard[begin : end + 1].astype(np.int64)  # with the first of the next part
            seen += np.bincount(ids[: end - begin], minlength=vocab_size)
            apart = split.offsets[(split.offsets > start + begin) & (split.offsets < start + begin + len(ids))]
            within = np.delete(ids[:-1] * vocab_size + ids[1:], apart - (start + begin) - 1)
            new, often = np.unique(within, return_counts=True)
            both, place = np.unique(np.concatenate([keys, new]), return_inverse=True)
            counts = np.bincount(place, np.concatenate([counts, often]), len(both)).astype(np.int64)
            keys = both
    return BigramCounts(keys // vocab_size, keys % vocab_size, counts, seen)
