"""Sequences of texts and pairs: special tokens, segments, what is cut and from where."""

from __future__ import annotations

import dataclasses

import pytest

from encodery.base.errors import InputError
from encodery.finetune.preprocess import Preprocessor
from encodery.tokens.tokenizer import Tokenizer

LONG = "red green blue one two six cat dog sun sky " * 3


@pytest.fixture
def reader(tokenizer: Tokenizer) -> Preprocessor:
    return Preprocessor(tokenizer, 12, True, "right")


def words(reader: Preprocessor, piece: object) -> list[str]:
    return [reader.tokenizer.piece(int(i)) for i in piece.ids]  # type: ignore[attr-defined]


def test_a_pair_is_read_as_bert_reads_it(reader: Preprocessor) -> None:
    [[piece]], dropped = reader.encode_pairs(["red cat"], ["sun"])
    assert words(reader, piece) == ["[CLS]", "red", "cat", "[SEP]", "sun", "[SEP]"]
    assert (piece.second_start, dropped) == (4, [0])
    encoded = reader.tokenizer.backend.encode("red cat", "sun")
    assert encoded.ids == piece.ids.tolist()
    assert encoded.type_ids == [int(place >= piece.second_start) for place in range(len(piece.ids))]


@pytest.mark.parametrize(("truncate", "first"), [("right", "red"), ("left", "sky")])
def test_a_long_text_loses_its_end_or_its_beginning(reader: Preprocessor, truncate: str, first: str) -> None:
    reader = dataclasses.replace(reader, truncate=truncate)
    [[piece]], dropped = reader.encode_texts([LONG])
    assert len(piece.ids) == 12
    assert dropped == [20]
    assert words(reader, piece)[1 if truncate == "right" else -2] == first


def test_of_a_pair_the_longer_text_is_cut_first(reader: Preprocessor) -> None:
    for first, second in (("sun", LONG), (LONG, "sun"), (LONG, LONG)):
        [[piece]], [dropped] = reader.encode_pairs([first], [second])
        assert len(piece.ids) == 12
        assert dropped == sum(len(reader.tokenizer.encode(text)) for text in (first, second)) - 9
        sizes = piece.second_start - 2, len(piece.ids) - piece.second_start - 1
        assert sizes == {("sun", LONG): (1, 8), (LONG, "sun"): (8, 1), (LONG, LONG): (4, 5)}[first, second]


def test_windows_of_a_pair_repeat_the_first_text(reader: Preprocessor) -> None:
    reader = dataclasses.replace(reader, max_length=24, truncate="chunk")
    [pieces], dropped = reader.encode_pairs(["who"], [LONG])
    assert dropped == [0]
    assert len(pieces) == 2
    assert all(words(reader, piece)[:3] == ["[CLS]", "who", "[SEP]"] for piece in pieces)
    assert sum(piece.stop - piece.start for piece in pieces) == 30
    with pytest.raises(InputError, match="Row 0: its first text has 30 tokens"):
        reader.encode_pairs([LONG], [LONG])


def test_too_long_texts_are_refused_if_set(reader: Preprocessor) -> None:
    reader = dataclasses.replace(reader, truncate="error")
    with pytest.raises(InputError, match="Row 1 has 30 tokens; the model takes 10"):
        reader.encode_texts(["sun", LONG])
    with pytest.raises(InputError, match="max_length = 4"):
        dataclasses.replace(reader, max_length=4)
