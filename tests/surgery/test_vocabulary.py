"""The steps of a change of vocabulary: rows from mixtures, words from a file, pieces added to WordPiece."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from encodery.base.errors import InputError, SettingsError
from encodery.surgery.vocabulary import add_words, embedding_mixtures, move_rows, read_words
from encodery.tokens.kind.bpe import Bpe
from encodery.tokens.kind.wordpiece import Wordpiece
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.transfer.global_mean import GlobalMean
from encodery.tokens.transfer.subword_mean import SubwordMean

TEXTS = ["the river ran past the old mill", "the miller slept in the old mill"] * 6


def wordpiece() -> Tokenizer:
    return Tokenizer(Wordpiece(lowercase=True).train(TEXTS, 90))


def test_rows_are_copies_mixtures_and_means() -> None:
    table = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0], [100.0, 100.0]])  # the last row is not used
    mixtures = {0: ((2,), (1.0,)), 1: ((0, 1), (0.25, 0.75)), 2: ((), ())}
    moved = move_rows(table, mixtures, vocab_size=5, used_size=3)
    assert moved.tolist() == [[5.0, 9.0], [2.5, 3.5], [3.0, 5.0], [0.0, 0.0], [0.0, 0.0]]


def test_a_bias_is_lowest_for_ids_without_a_piece() -> None:
    bias = torch.tensor([0.5, -2.0, 1.0, -50.0])
    moved = move_rows(bias, {0: ((2,), (1.0,)), 1: ((), ())}, vocab_size=4, used_size=3)
    torch.testing.assert_close(moved, torch.tensor([1.0, -0.5 / 3, -2.0, -2.0]))


def test_shared_pieces_are_kept_and_the_others_counted() -> None:
    old, new = wordpiece(), Tokenizer(Bpe().train(TEXTS, 300))
    mixtures, counts = embedding_mixtures(old, new, SubwordMean())
    assert set(mixtures) == {number for number, piece in enumerate(new.pieces) if piece}
    assert mixtures[new.mask_id] == ((old.mask_id,), (1.0,))
    assert sum(counts.values()) == len(mixtures)
    assert counts["kept"] > 5
    assert counts["unknown"] == sum(not ids for ids, _ in mixtures.values())
    _, none_composed = embedding_mixtures(old, new, GlobalMean())
    assert none_composed == {"kept": counts["kept"], "composed": 0, "unknown": len(mixtures) - counts["kept"]}


def test_words_are_read_once_each(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text(" mill \n\nriver\nmill\n", encoding="utf-8")
    assert read_words(file) == ["mill", "river"]
    file.write_text("\n \n", encoding="utf-8")
    with pytest.raises(InputError, match="holds no words"):
        read_words(file)
    with pytest.raises(InputError, match=r"none\.txt"):
        read_words(tmp_path / "none.txt")


def test_added_words_are_single_tokens_after_the_old_ones() -> None:
    old = wordpiece()
    new = add_words(old, ["Thunderstorm", "mill"], old.vocab_size)
    assert new.encode("thunderstorm").tolist() == [old.used_size], "the word is normalised as the tokenizer does it"
    assert new.used_size == old.used_size + 1, "a word that is a piece already is not added"
    assert new.vocab_size == old.vocab_size
    assert new.encode(TEXTS[0]).tolist() == old.encode(TEXTS[0]).tolist()
    room = old.vocab_size - old.used_size
    names = [f"storm{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(room + 1)]
    assert add_words(old, names, old.vocab_size).vocab_size == old.vocab_size + 64


def test_words_that_cannot_be_added_are_refused() -> None:
    with pytest.raises(InputError, match="'two words' is no single word"):
        add_words(wordpiece(), ["two words"], 128)
    with pytest.raises(SettingsError, match="cannot be added to this tokenizer, whose kind is BPE"):
        add_words(Tokenizer(Bpe().train(TEXTS, 300)), ["storm"], 320)


def test_a_word_with_an_unknown_character_is_added() -> None:
    old = wordpiece()
    assert old.encode("zoë").tolist().count(old.unk_id) == 2
    new = add_words(old, ["Zoë"], old.vocab_size)
    assert [new.piece(number) for number in new.encode("old Zoë mill")] == ["old", "zoë", "mill"]
