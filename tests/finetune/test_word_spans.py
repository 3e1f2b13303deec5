"""Words of any script with exact characters, the pieces that speak for them, windows in which each is judged once."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encodery.finetune.heads.word_spans import first_tokens, join_words, spans_of, strip_offsets, tags_of, word_spans
from encodery.finetune.windows import most_central_window, overlapping_windows


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Paris, France.", ["Paris", ",", "France", "."]),
        ("cafe\u0301 nai\u0308ve", ["cafe\u0301", "nai\u0308ve"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("مرحبا بالعالم!", ["مرحبا", "بالعالم", "!"]),
        ("東京 タワー", ["東", "京", "タ", "ワ", "ー"]),
        ("👩\u200d👧 hi 👍🏽", ["👩\u200d👧", "hi", "👍🏽"]),
        ("a^b\u00a0c\u200d", ["a", "^", "b", "c\u200d"]),
        ("", []),
        (" \n\t ", []),
    ],
)
def test_words_of_any_script(text: str, words: list[str]) -> None:
    assert [text[a:b] for a, b in word_spans(text)] == words


@given(st.text(max_size=40))
def test_words_are_in_order_and_leave_out_nothing_but_spaces_and_controls(text: str) -> None:
    spans = word_spans(text).tolist()
    flat = [edge for word in spans for edge in word]
    assert flat == sorted(flat)
    assert all(a < b for a, b in spans)
    inside = {place for a, b in spans for place in range(a, b)}
    left = "".join(letter for place, letter in enumerate(text) if place not in inside)
    assert not any(letter.isalnum() for letter in left)


def test_joined_words_are_at_their_offsets() -> None:
    text, where = join_words(["New", "", "York"])
    assert [text[a:b] for a, b in where] == ["New", "", "York"]
    assert join_words([])[1].shape == (0, 2)


def test_the_first_piece_of_a_word_speaks_for_it() -> None:
    #        "ab"    "c"     " de"   (nothing)  byte, byte of one letter
    pieces = np.array([[0, 2], [2, 3], [3, 6], [6, 6], [7, 8], [7, 8]])
    where = np.array([[0, 3], [4, 6], [7, 8], [9, 10]])
    assert first_tokens(strip_offsets("abc de x y", pieces), where).tolist() == [0, 2, 4, -1]
    assert first_tokens(np.zeros((0, 2), np.int64), where).tolist() == [-1] * 4


def test_a_piece_may_speak_for_several_words() -> None:
    assert first_tokens(np.array([[0, 3]]), np.array([[0, 1], [1, 2], [2, 3]])).tolist() == [0, 0, 0]


def test_spans_are_those_of_seqeval() -> None:
    tags = ["B-x", "I-x", "I-y", "O", "I-x", "B-x", "B-x", "I-x"]
    assert spans_of(tags) == [(0, 2, "x"), (2, 3, "y"), (4, 5, "x"), (5, 6, "x"), (6, 8, "x")]
    assert spans_of(["B-a-b", "I-a-b"]) == [(0, 2, "a-b")]
    assert tags_of([(0, 2, "x"), (1, 3, "y"), (4, 5, "y")], 5) == ["B-x", "I-x", "O", "O", "B-y"]


@given(st.integers(0, 200), st.integers(4, 40), st.integers(0, 60))
def test_windows_cover_everything_with_the_requested_overlap(tokens: int, room: int, overlap: int) -> None:
    windows = overlapping_windows(tokens, room, overlap)
    assert windows[0][0] == 0
    assert windows[-1][1] == tokens
    assert all(stop - start <= room for start, stop in windows)
    shared = min(overlap, room // 2)
    for (_, stop), (start, _) in itertools.pairwise(windows):
        assert stop - start >= shared
    at = most_central_window(tokens, windows)
    assert len(at) == tokens
    for token, window in enumerate(at.tolist()):
        start, stop = windows[window]
        assert start <= token < stop


def test_a_token_is_predicted_in_the_window_where_it_is_farthest_from_an_edge() -> None:
    at = most_central_window(20, [(0, 10), (5, 15), (10, 20)])
    assert at.tolist() == [0] * 8 + [1] * 5 + [2] * 7 or at.tolist() == [0] * 7 + [1] * 6 + [2] * 7
    assert (np.diff(at) >= 0).all()
