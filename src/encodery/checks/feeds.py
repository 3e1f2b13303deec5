"""Checks of feeds, on documents of distinct tokens, so that each token says where it is from."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from encodery.base.settings import decode, encode
from encodery.tokens.feeds import DataFeed, FeedPiece
from encodery.tokens.shards import TokenShardWriter, index_split
from encodery.tokens.store import SpecialTokens, TokenSplit

LENGTHS = (30, 5, 18, 40)
GROUPS = (7, 8, 7, 7)  # The second document is related to none.
CLS_ID, SEP_ID, FIRST = 2, 3, 5
START, LENGTH = 37, 12  # A piece of the third document.


def example_split(folder: Path) -> TokenSplit:
    """Write documents of the tokens 5, 6, 7, ... into a folder, three of them related, and return them."""
    special = SpecialTokens(pad_id=0, unk_id=1, cls_id=CLS_ID, sep_id=SEP_ID, mask_id=4, vocab_size=200)
    writer = TokenShardWriter(folder, 0, "uint16", special.unk_id)
    ends = np.cumsum(LENGTHS)
    documents = [
        (np.arange(FIRST + end - length, FIRST + end, dtype=np.uint32), length)
        for end, length in zip(ends, LENGTHS, strict=True)
    ]
    writer.groups += GROUPS
    metrics = index_split(folder, [writer.write(documents, "checks")])
    return TokenSplit(folder, "uint16", metrics, special, "example")


def pieces(part: DataFeed) -> list[FeedPiece]:
    """Return what the feed makes of one piece, for many draws."""
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        split = example_split(Path(folder))
        part.check_split(split)
        return [part.compose(split, START, LENGTH, generator.integers(0, 2**31 - 1, 3)) for _ in range(50)]


def check_settings_round_trip(part: DataFeed) -> None:
    """The part is what its settings decode to."""
    assert decode(DataFeed, encode(part)) == part


def check_sizes(part: DataFeed) -> None:
    """A piece keeps its number of tokens, and becomes as many sequences as the feed says."""
    for piece in pieces(part):
        assert len(piece.ids) == len(piece.segment) == sum(piece.lengths) == LENGTH + part.num_special_tokens
        assert len(piece.lengths) == part.sequences
        assert piece.ids.dtype == piece.segment.dtype == np.int64


def check_special_tokens(part: DataFeed) -> None:
    """Each sequence begins with [CLS] and ends with [SEP], and the feed adds no other special token."""
    for piece in pieces(part):
        ends = np.cumsum(piece.lengths)
        assert (piece.ids[ends - 1] == SEP_ID).all()
        assert (piece.ids[ends - piece.lengths] == CLS_ID).all()
        assert (piece.ids < FIRST).sum() == part.num_special_tokens


def check_text(part: DataFeed) -> None:
    """A piece with the label 0 is the text in its order."""
    labelled = [piece for piece in pieces(part) if piece.relation == 0]
    assert labelled, "no piece has the label 0"
    for piece in labelled:
        text = piece.ids[piece.ids >= FIRST]
        assert text.tolist() == list(range(FIRST + START, FIRST + START + LENGTH))
