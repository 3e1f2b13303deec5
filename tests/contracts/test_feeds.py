"""Contract of the feeds: every check of `encodery.checks.feeds` on every part in the folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from encodery import checks
from encodery.base.parts import find_part, part_names
from encodery.checks import feeds
from encodery.checks.feeds import FIRST, LENGTH, START, example_split, pieces
from encodery.tokens.feeds import DataFeed
from encodery.tokens.feeds.segment_pairs import SegmentPairs


@pytest.mark.parametrize("check", checks.functions(feeds), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(DataFeed))
def test_contract(name: str, check: checks.Check, run_check: Callable[..., None]) -> None:
    run_check(check, find_part(DataFeed, name)())


def test_half_of_the_pairs_are_exchanged() -> None:
    others = [piece for piece in pieces(SegmentPairs(relation="order")) if piece.relation]
    assert 15 <= len(others) <= 35
    for piece in others:
        a, b = (piece.ids[(piece.segment == i) & (piece.ids >= FIRST)].tolist() for i in (0, 1))
        assert b + a == list(range(FIRST + START, FIRST + START + LENGTH))


def test_half_of_the_second_segments_are_of_another_document() -> None:
    others = [piece for piece in pieces(SegmentPairs(relation="next")) if piece.relation]
    assert 15 <= len(others) <= 35
    own = set(range(FIRST + 35, FIRST + 53))
    for piece in others:
        a, b = (piece.ids[(piece.segment == i) & (piece.ids >= FIRST)] for i in (0, 1))
        assert a[0] == FIRST + START
        assert b[0] not in own


def test_a_third_of_the_second_segments_is_of_a_related_document() -> None:
    """The first and the last document are related to that of the piece, the second one is not."""
    drawn = pieces(SegmentPairs(relation="linked"))
    by_label = [[piece for piece in drawn if piece.relation == label] for label in range(3)]
    assert all(len(some) >= 8 for some in by_label)
    related = {*range(FIRST, FIRST + 30), *range(FIRST + 53, FIRST + 93)}
    for piece in by_label[2]:
        a, b = (piece.ids[(piece.segment == i) & (piece.ids >= FIRST)].tolist() for i in (0, 1))
        assert a == list(range(FIRST + START, FIRST + START + len(a)))
        assert b == list(range(b[0], b[0] + len(b)))
        assert set(b) <= related
    own = range(FIRST + START, FIRST + START + LENGTH)
    assert all(piece.ids[piece.ids >= FIRST].tolist() == list(own) for piece in by_label[0])


def test_a_short_related_document_leaves_more_to_the_first_segment(tmp_path: Path) -> None:
    split = example_split(tmp_path)
    linked = SegmentPairs(relation="linked")
    piece = linked.compose(split, 53, 30, np.array([0, 2, 5]))  # its first segment would have one token
    assert piece.relation == 2
    assert (piece.segment == 1).sum() == 19, "the document has 18 tokens, and [SEP] follows"
    alone = linked.compose(split, 30, 5, np.array([1, 2, 0]))
    assert alone.relation == 0
    assert alone.ids[alone.ids >= FIRST].tolist() == list(range(FIRST + 30, FIRST + 35))
