"""Pairs of segments, [CLS] a [SEP] b [SEP], and whether b follows a in the text.

A piece of a document is divided at a random place. With `relation` = "next" (BERT, arXiv:1810.04805) half of the second
segments are replaced by text of another document; with "order" (ALBERT, arXiv:1909.11942) half of the pairs are
exchanged. The label is 0 for a pair as in the text and 1 for the others. Differs from the papers: segments end between
tokens, not between sentences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from encodery.base.errors import EmptyInput
from encodery.tokens.feeds import DataFeed, FeedPiece, Ids
from encodery.tokens.shuffle import Integers
from encodery.tokens.store import TokenSplit

Relation = Literal["next", "order"]


@dataclass(frozen=True, kw_only=True)
class SegmentPairs(DataFeed):
    """The objective `segment_relation` uses it. `relation`: what the label says."""

    relation: Relation = "next"

    @property
    def num_special_tokens(self) -> int:
        return 3

    @property
    def sequences(self) -> int:
        return 1

    def check_split(self, split: TokenSplit) -> None:
        """See `DataFeed`: text of another document needs two documents."""
        if self.relation == "next" and len(split) < 2:
            raise EmptyInput(f"The split '{split.name}' has {len(split)} document: pairs of two documents need two.")

    def compose(self, split: TokenSplit, start: int, length: int, draws: Integers) -> FeedPiece:
        """See `DataFeed`."""
        first = 1 + int(draws[0]) % (length - 1)
        other = int(draws[1]) % 2
        a, b = (split.read(*part).astype(np.int64) for part in ((start, first), (start + first, length - first)))
        if other and self.relation == "order":
            a, b = b, a
        elif other:
            b = split.read(_elsewhere(split, start, len(b), int(draws[2])), len(b)).astype(np.int64)
        return FeedPiece(
            *join_pair(a, b, split.special_tokens.cls_id, split.special_tokens.sep_id), (length + 3,), other
        )


def join_pair(a: Ids, b: Ids, cls_id: int, sep_id: int) -> tuple[Ids, Ids]:
    """Return the ids of [CLS] a [SEP] b [SEP], and the segment of each: 1 for b and the [SEP] after it."""
    ids = np.concatenate([[cls_id], a, [sep_id], b, [sep_id]])
    return ids, (np.arange(len(ids)) >= len(a) + 2).astype(np.int64)


def _elsewhere(split: TokenSplit, start: int, length: int, draw: int) -> int:
    """Where `length` tokens of another document than that of `start` begin; they continue in the next one if that
    document is shorter."""
    own = int(split.offsets.searchsorted(start, "right")) - 1
    number = (own + 1 + draw % (len(split) - 1)) % len(split)
    begin, end = int(split.offsets[number]), int(split.offsets[number + 1])
    place = begin + (draw // len(split)) % max(end - length - begin + 1, 1)
    return max(0, min(place, split.tokens - length))
