"""Checks of tokenizer kinds, each trained on forty texts of Python's own documentation."""

from __future__ import annotations

import functools
import unicodedata
from pydoc_data.topics import topics

import numpy as np

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
VOCAB_SIZE = 700


@functools.lru_cache
def trained(part: TokenizerKind) -> Tokenizer:
    """Return the tokenizer that the part trains on `TEXTS`."""
    tokenizer = Tokenizer(part.train(TEXTS, VOCAB_SIZE))
    tokenizer.set_template()
    return tokenizer


def check_settings_round_trip(part: TokenizerKind) -> None:
    """The part is what its settings decode to."""
    assert decode(TokenizerKind, encode(part)) == part


def check_special_tokens_come_first(part: TokenizerKind) -> None:
    """[PAD] [UNK] [CLS] [SEP] [MASK] are the ids 0 to 4."""
    tokenizer = trained(part)
    ids = [getattr(tokenizer, f"{role}_id") for role in ("pad", "unk", "cls", "sep", "mask")]
    assert ids == [0, 1, 2, 3, 4]
    assert tokenizer.special_ids == frozenset(ids)


def check_vocabulary_is_bounded(part: TokenizerKind) -> None:
    """There are at most as many ids as asked for, each with a piece; the padded size is a multiple of 64."""
    tokenizer = trained(part)
    assert tokenizer.used_size <= VOCAB_SIZE
    assert tokenizer.vocab_size % 64 == 0
    assert all(tokenizer.pieces)


def check_training_does_not_depend_on_the_order(part: TokenizerKind) -> None:
    """The same texts in another order give the same tokenizer."""
    again = Tokenizer(part.train(TEXTS[::-1], VOCAB_SIZE))
    again.set_template()
    assert again.fingerprint == trained(part).fingerprint


def check_decoding(part: TokenizerKind) -> None:
    """No training text has unknown tokens, and it is decoded to itself but for case, spaces and unicode form."""
    tokenizer = trained(part)
    for text, ids in zip(TEXTS, tokenizer.encode_batch(TEXTS), strict=True):
        assert tokenizer.unk_id not in ids, f"unknown tokens in {text[:80]!r}"
        assert _folded(tokenizer.decode(ids)) == _folded(text)


def check_awkward_texts(part: TokenizerKind) -> None:
    """Every string has ids in range, none of a special token but [UNK], with offsets into the text."""
    tokenizer = trained(part)
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


def check_written_special_tokens(part: TokenizerKind) -> None:
    """ "[MASK]" in a text is the special token if `parse_special_tokens` asks for it."""
    tokenizer = trained(part)
    ids = tokenizer.encode("the [MASK] statement", add_special_tokens=True, parse_special_tokens=True).tolist()
    assert (ids[0], ids[-1]) == (tokenizer.cls_id, tokenizer.sep_id)
    assert ids.count(tokenizer.mask_id) == 1
    rest = tokenizer.decode(i for i in ids if i not in tokenizer.special_ids)
    assert rest.split() == ["the", "statement"]


def check_word_starts(part: TokenizerKind) -> None:
    """`word_start` marks one token of each word, and special tokens."""
    tokenizer = trained(part)
    assert tokenizer.word_start.shape == (tokenizer.vocab_size,)
    assert tokenizer.word_start[sorted(tokenizer.special_ids)].all()
    text = " ".join(["another", "interchangeable", "statement", "of", "nonlocality"] * 3)
    starts = tokenizer.word_start[tokenizer.encode(text)]
    assert starts.sum() == 15 - (not starts[0])


def check_long_texts(part: TokenizerKind) -> None:
    """A text that is encoded in parts has the ids that it has as a whole."""
    tokenizer = trained(part)
    text = "\n".join(TEXTS * 3)
    whole, _ = tokenizer.encode_with_offsets(text)
    assert np.array_equal(tokenizer.encode(text), whole)
    framed = tokenizer.encode_batch([text, "short"], add_special_tokens=True)
    assert np.array_equal(framed[0][1:-1], whole)
    assert np.array_equal(framed[1], tokenizer.encode("short", add_special_tokens=True))


def _folded(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).split()).lower()
