"""Cutting: borders, sizes, overlaps, and texts without any border."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from encodery.corpus.document import Document
from encodery.search.passages import Passages, passage_ranges, word_offsets

SENTENCES = " ".join(f"This is sentence number {i}, and it has some more words." for i in range(40))


def sizes(text: str, ranges: list[tuple[int, int]]) -> list[int]:
    return [len(word_offsets(text[a:b])) for a, b in ranges]


def test_passages_end_with_sentences_and_are_about_equal() -> None:
    ranges = passage_ranges(SENTENCES, word_offsets(SENTENCES), 50)
    assert all(SENTENCES[a:b].endswith(".") and SENTENCES[a] == "T" for a, b in ranges)
    counts = sizes(SENTENCES, ranges)
    assert max(counts) <= 50
    assert min(counts) >= 25
    assert sum(counts) == len(word_offsets(SENTENCES))


def test_a_blank_line_is_the_better_border() -> None:
    text = "One two three four. Five six.\n\nSeven eight. Nine ten eleven. Twelve."
    (a, b), *_ = passage_ranges(text, word_offsets(text), 12)
    assert text[a:b] == "One two three four. Five six."


def test_short_and_empty_texts_are_one_passage() -> None:
    assert passage_ranges("", word_offsets(""), 10) == [(0, 0)]
    assert passage_ranges("a b c", word_offsets("a b c"), 3) == [(0, 5)]


def test_text_without_any_border_is_cut_between_tokens() -> None:
    text = "x" * 1000
    offsets = np.stack([np.arange(1000), np.arange(1, 1001)], axis=1)
    ranges = passage_ranges(text, offsets, 30)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == 1000
    assert all(a == b for (_, a), (b, _) in itertools.pairwise(ranges))
    assert max(b - a for a, b in ranges) <= 30


@pytest.mark.parametrize("seed", range(5))
def test_no_token_is_lost_or_doubled_and_none_beyond_the_size(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pieces = rng.choice(["a", "bb", "ccc", ". ", "\n", "\n\n", " ", " ", " ", "。", "!", "é"], size=600)
    text = "".join(pieces)
    offsets = word_offsets(text)
    size = int(rng.integers(8, 40))
    ranges = passage_ranges(text, offsets, size)
    assert max(sizes(text, ranges)) <= size
    covered = [tuple(span) for a, b in ranges for span in offsets.tolist() if a <= span[0] and span[1] <= b]
    assert covered == [tuple(span) for span in offsets.tolist()]


def test_overlap_repeats_the_end_of_the_passage_before() -> None:
    ranges = passage_ranges(SENTENCES, word_offsets(SENTENCES), 50, overlap=10)
    for (_, end), (start, _) in itertools.pairwise(ranges):
        assert len(word_offsets(SENTENCES[start:end])) == 10
    assert max(sizes(SENTENCES, ranges)) <= 50


def test_the_title_precedes_every_passage_and_counts() -> None:
    document = Document("d", SENTENCES, {"title": "A  fine\ntitle"})
    points = Passages(size=50).points(document, None)
    assert all(point.text.startswith("A fine title\n") for point in points)
    assert max(len(word_offsets(point.text)) for point in points) <= 50
    assert (
        points[1].text[points[1].payload["head"] :] == SENTENCES[points[1].payload["start"] : points[1].payload["end"]]
    )
    bare = Passages(size=50, title=False).points(document, None)
    assert bare[0].text.startswith("This is")
    own = Passages(size=50).points(Document("d", "A title. And text.", {"title": "A title"}), None)
    assert own[0].text == "A title. And text."
