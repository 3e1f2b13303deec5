"""Feeds: what the sequences of a batch are made of, where an objective needs more than pieces of documents."""

from __future__ import annotations

import abc
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from encodery.base.parts import Part
from encodery.tokens.shuffle import Integers
from encodery.tokens.store import TokenSplit

Ids = npt.NDArray[np.int64]


class FeedPiece(NamedTuple):
    """What a feed makes of one piece of a document.

    `ids` (n,): the tokens, special ones included; `segment` (n,): the segment of each; `lengths`: those of the
    sequences that the tokens are divided into, which sum to n; `relation`: the label of the piece.
    """

    ids: Ids
    segment: Ids
    lengths: tuple[int, ...]
    relation: int


class DataFeed(Part):
    """Contract of a feed. The loader draws pieces of documents and assigns them to ranks, and the feed makes sequences
    of each piece. So batches stay a function of the loader's state, are resumed exactly, and are divided over ranks."""

    @property
    @abc.abstractmethod
    def num_special_tokens(self) -> int:
        """How many special tokens the sequences of a piece have together."""

    @property
    @abc.abstractmethod
    def sequences(self) -> int:
        """How many sequences a piece becomes."""

    def check_split(self, split: TokenSplit) -> None:
        """Raise `EmptyInput` if the feed cannot be made of the documents of a split."""

    @abc.abstractmethod
    def compose(self, split: TokenSplit, start: int, length: int, draws: Integers) -> FeedPiece:
        """Return the sequences of a piece.

        Args:
            split: The documents.
            start: Where the piece begins in the tokens of the split.
            length: Its tokens, 2 or more; the result has `num_special_tokens` more.
            draws: Three random numbers in 0..2**31-1, other ones at every visit of the piece.
        """
