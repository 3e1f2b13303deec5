"""Contract of the feeds: every check of `encodery.checks.feeds` on every part in the folder."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from encodery import checks
from encodery.base.parts import find_part, part_names
from encodery.checks import feeds
from encodery.checks.feeds import FIRST, LENGTH, START, pieces
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
