"""Guessing by frequency alone: the loss that a model has to beat before it can be said to have learnt anything.

Ids are counted in the first tokens of the training split, one added to each; the guess is scored on held-out tokens.
Shapes: V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from encodery.tokens.shuffle import Integers
from encodery.tokens.store import TokenSplit, TokenStore

COUNTED_TOKENS = 20_000_000


@dataclass(frozen=True)
class UnigramBaseline:
    """What guessing by frequency alone would reach on the held-out tokens: loss in nats, accuracy."""

    loss: float
    accuracy: float


def unigram_baseline(store: TokenStore) -> UnigramBaseline | None:
    """Loss and accuracy of a guess by frequency, counted on a bounded part; None where a split is empty."""
    size = store.special_tokens.vocab_size
    train, heldout = (_counts(split, size) for split in (store.train, store.heldout))
    if not heldout.sum() or not train.sum():
        return None
    chance = (train + 1) / (train.sum() + size)
    loss = -float((heldout * np.log(chance)).sum() / heldout.sum())
    return UnigramBaseline(loss, float(heldout[train.argmax()] / heldout.sum()))


def _counts(split: TokenSplit, size: int) -> Integers:
    """How often each id stands in the first tokens of a split (V,)."""
    counts = np.zeros(size, np.int64)
    left = COUNTED_TOKENS
    for shard in split.shards:
        counts += np.bincount(shard[:left], minlength=size)[:size]
        left -= min(left, len(shard))
    return counts
