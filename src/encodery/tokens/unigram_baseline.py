"""The unigram baseline: the loss of predictions by frequency alone, which a model must beat before it has learnt
anything.

Ids are counted in the first tokens of the training split, one added to each count; the prediction is scored on held-out
tokens. Shapes: V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from encodery.tokens.shuffle import Integers
from encodery.tokens.store import TokenSplit, TokenStore

COUNTED_TOKENS = 20_000_000


@dataclass(frozen=True)
class UnigramBaseline:
    """Loss in nats and accuracy on the held-out tokens of predictions by frequency alone."""

    loss: float
    accuracy: float


def unigram_baseline(store: TokenStore) -> UnigramBaseline | None:
    """Return loss and accuracy, from counts over a bounded part of each split; None if a split is empty."""
    size = store.special_tokens.vocab_size
    train, heldout = (_counts(split, size) for split in (store.train, store.heldout))
    if not heldout.sum() or not train.sum():
        return None
    probability = (train + 1) / (train.sum() + size)
    loss = -float((heldout * np.log(probability)).sum() / heldout.sum())
    return UnigramBaseline(loss, float(heldout[train.argmax()] / heldout.sum()))


def _counts(split: TokenSplit, size: int) -> Integers:
    """(V,) how often each id occurs in the first tokens of a split."""
    counts = np.zeros(size, np.int64)
    remaining = COUNTED_TOKENS
    for shard in split.shards:
        counts += np.bincount(shard[:remaining], minlength=size)[:size]
        remaining -= min(remaining, len(shard))
    return counts
