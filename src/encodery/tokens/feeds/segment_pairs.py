"""Pairs of segments, [CLS] a [SEP] b [SEP], and whether b follows a in the text.

A piece of a document is divided at a random place. With `relation` = "next" (BERT, arXiv:1810.04805) half of the second
segments are replaced by text of another document; with "order" (ALBERT, arXiv:1909.11942) half of the pairs are
exchanged. With "linked" (LinkBERT, arXiv:2203.15827) a third of the second segments is text of another document and a
third that of a related one, those of a token folder with groups (`encodery tokens encode --group-by`). The label is 0
for a pair as in the text, 1 for the others, and 2 for related documents. Differs from the papers: segments end between
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

Relation = Literal["next", "order", "linked"]

LINKED = 2  # the label of related documents


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
        """See `DataFeed`: text of another document needs two documents, that of a related one related documents.
        Raises `InputError` for a token folder without groups."""
        if self.relation != "order" and len(split) < 2:
            raise EmptyInput(f"The split '{split.name}' has {len(split)} document: pairs of two documents need two.")
        if self.relation == "linked" and not split.related.count:
            raise EmptyInput(f"The split '{split.name}' has no two documents that are related.")

    def compose(self, split: TokenSplit, start: int, length: int, draws: Integers) -> FeedPiece:
        """See `DataFeed`."""
        first = 1 + int(draws[0]) % (length - 1)
        other = int(draws[1]) % (3 if self.relation == "linked" else 2)
        if other == LINKED:
            return self._linked(split, start, length, first, int(draws[2]))
        a, b = (split.read(*part).astype(np.int64) for part in ((start, first), (start + first, length - first)))
        if other and self.relation == "order":
            a, b = b, a
        elif other:
            b = split.read(_elsewhere(split, start, len(b), int(draws[2])), len(b)).astype(np.int64)
        return FeedPiece(
            *join_pair(a, b, split.special_tokens.cls_id, split.special_tokens.sep_id), (length + 3,), other
        )

    def _linked(self, split: TokenSplit, start: int, length: int, first: int, draw: int) -> FeedPiece:
        """The piece with text of a related document from token `first` on; from a later one on if that document is
        shorter. A document without relatives gives a pair as in the text."""
        own = int(split.offsets.searchsorted(start, "right")) - 1
        group = split.related.of(int(split.groups[own]))
        group = group[group != own]
        b = split.read(start + first, length - first)
        if len(group):
            document = int(group[draw % len(group)])
            begin, end = int(split.offsets[document]), int(split.offsets[document + 1])
            taken = min(length - first, end - begin)
            place = begin + (draw // len(split)) % (end - begin - taken + 1)
            first, b = length - taken, split.read(place, taken)
        a, special = split.read(start, first), split.special_tokens
        joined = join_pair(a.astype(np.int64), b.astype(np.int64), special.cls_id, special.sep_id)
        return FeedPiece(*joined, (length + 3,), LINKED if len(group) else 0)


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
