"""Neighbouring spans: a piece of a document becomes two sequences, [CLS] a [SEP] and [CLS] b [SEP].

Sequences 2i and 2i + 1 of a batch are neighbours in a text, as contrastive pre-training needs them
(DeCLUTR, arXiv:2006.03659; coCondenser, arXiv:2108.05540).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from encodery.tokens.feeds import DataFeed, FeedPiece
from encodery.tokens.shuffle import Integers
from encodery.tokens.store import TokenSplit


@dataclass(frozen=True, kw_only=True)
class Neighbours(DataFeed):
    """Use it for an objective that compares spans of one text. The two have about the same length."""

    @property
    def num_special_tokens(self) -> int:
        return 4

    @property
    def sequences(self) -> int:
        return 2

    def compose(self, split: TokenSplit, start: int, length: int, draws: Integers) -> FeedPiece:
        """See `DataFeed`. The label is 0."""
        half, cls_id, sep_id = length // 2, [split.special_tokens.cls_id], [split.special_tokens.sep_id]
        whole = split.read(start, length).astype(np.int64)
        ids = np.concatenate([cls_id, whole[:half], sep_id, cls_id, whole[half:], sep_id])
        return FeedPiece(ids, np.zeros(len(ids), np.int64), (half + 2, length - half + 2), 0)
