"""Every kind of tokenizer keeps the contract: repeatable, bounded, special tokens first, whole words known."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest

from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode, encode
from encodery.tokens.kind import TokenizerKind
from encodery.tokens.tokenizer import Tokenizer

TEXTS = [text[:4000] for _, text in sorted(topics.items())][:40]
AWKWARD = [
    "",
    " ",
    "\n\n\t",
    "Ünïcödé naïve 北京 тест 🙂👩‍👩‍👧 \u200bzero\u0000width",
    "a" * 300,
    "[MASK] written [SEP] out, and a byte as <0x41>",
    "e\u0301 combining \ufffd",
    "  two  spaces\r\nand a line  ",
    "3.14159 x=1,000; (f(x))!",
]
VOCAB = 700


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    found = {}
    for name in sorted(part_names(TokenizerKind), key="hub".__eq__):
        found[name] = Tokenizer(make(name, tmp_path_factory.getbasetemp() / "kinds").train(TEXTS, VOCAB))
        found[name].set_template()
        found[name].save(tmp_path_factory.getbasetemp() / "kinds" / name)
    return found


def make(name: str, folder: Path) -> TokenizerKind:
    fields = {"folder": str(folder / "wordpiece")} if name == "hub" else {}
    return find_part(TokenizerKind, name)(**fields)


KINDS = part_names(TokenizerKind)


@pytest.mark.parametrize("name", KINDS)
def test_settings_go_round(name: str, tmp_path: Path) -> None:
    part = make(name, tmp_path)
    assert decode(TokenizerKind, encode(part)) == part


@pytest.mark.parametrize("name", KINDS)
def test_special_tokens_are_first_and_the_vocabulary_is_bounded(name: str, trained: dict[str, Tokenizer]) -> None:
    tokenizer = trained[name]
    ids = [getattr(tokenizer, f"{role}_id") for role in ("pad", "unk", "cls", "sep", "mask")]
    assert ids == [0, 1, 2, 3, 4]
    assert tokenizer.special_ids == frozenset(ids)
    assert tokenizer.used_size <= VOCAB
    assert tokenizer.vocab_size % 64 == 0
    assert all(tokenizer.pieces)


@pytest.mark.parametrize("name", KINDS)
def test_training_repeats_in_any_order(name: str, trained: dict[str, Tokenizer], tmp_path_factory: object) -> None:
    part = find_part(TokenizerKind, name)
    if name == "hub":
        return
    again = Tokenizer(part().train(TEXTS[::-1], VOCAB))
    again.set_template()
    assert again.fingerprint == trained[name].fingerprint


@pytest.mark.parametrize("name", KINDS)
def test_text_comes_back_but_for_case_and_spaces(name: str, trained: dict[str, Tokenizer]) -> None:
    def folded(text: str) -> str:
        return "".join(unicodedata.normalize("NFKC", text).split()).lower()

    tokenizer = trained[name]
    for text, ids in zip(TEXTS, tokenizer.encode_batch(TEXTS), strict=True):
        if tokenizer.unk_id not in ids:
            assert folded(tokenizer.decode(ids)) == folded(text)
    assert sum(int((ids == tokenizer.unk_id).sum()) for ids in tokenizer.encode_batch(TEXTS)) == 0


@pytest.mark.parametrize("name", KINDS)
def test_awkward_text_has_ids_in_range_and_no_special_one(name: str, trained: dict[str, Tokenizer]) -> None:
    tokenizer = trained[name]
    for text, ids in zip(AWKWARD, tokenizer.encode_batch(AWKWARD), strict=True):
        assert ids.dtype == np.uint32
        assert not set(ids.tolist()) & (tokenizer.special_ids - {tokenizer.unk_id}), text
        assert (ids < tokenizer.used_size).all()
        assert "<0x41>" not in tokenizer.pieces or tokenizer.pieces.index("<0x41>") not in ids
        alone, offsets = tokenizer.encode_with_offsets(text)
        assert np.array_equal(alone, ids)
        assert offsets.shape == (len(ids), 2)
        assert (offsets[:, 0] <= offsets[:, 1]).all()
        assert offsets.max(initial=0) <= len(text)


@pytest.mark.parametrize("name", KINDS)
def test_a_mask_written_out_is_one_when_asked(name: str, trained: dict[str, Tokenizer]) -> None:
    tokenizer = trained[name]
    ids = tokenizer.encode("the [MASK] statement", add_special_tokens=True, parse_special_tokens=True).tolist()
    assert (ids[0], ids[-1]) == (tokenizer.cls_id, tokenizer.sep_id)
    assert ids.count(tokenizer.mask_id) == 1
    rest = tokenizer.decode(i for i in ids if i not in tokenizer.special_ids)
    assert rest.split() == ["the", "statement"]


@pytest.mark.parametrize("name", KINDS)
def test_word_starts_count_the_words(name: str, trained: dict[str, Tokenizer]) -> None:
    tokenizer = trained[name]
    assert tokenizer.word_start.shape == (tokenizer.vocab_size,)
    assert tokenizer.word_start[sorted(tokenizer.special_ids)].all()
    text = " ".join(["another", "interchangeable", "statement", "of", "nonlocality"] * 3)
    starts = tokenizer.word_start[tokenizer.encode(text)]
    assert starts.sum() == 15 - (not starts[0])


@pytest.mark.parametrize("name", KINDS)
def test_a_long_text_has_the_ids_it_has_in_pieces(
    name: str, trained: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = trained[name]
    text = "\n".join(TEXTS[:8])
    whole = tokenizer.encode(text)
    monkeypatch.setattr("encodery.tokens.tokenizer.MAX_PART_CHARACTERS", 500)
    assert np.array_equal(tokenizer.encode(text), whole)
    framed = tokenizer.encode_batch([text, "short"], add_special_tokens=True)
    assert np.array_equal(framed[0][1:-1], whole)
    assert np.array_equal(framed[1], tokenizer.encode("short", add_special_tokens=True))
