"""WordPiece: words are split at spaces and punctuation, then into the longest known pieces (BERT, arXiv:1810.04805).

The trainer of `tokenizers` numbers continuing characters in the order of a random hash, which changes ties and so the
pieces; here the alphabet is counted and numbered first, so that training is repeatable.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from encodery.base.settings import check_interval
from encodery.tokens.kind import TokenizerKind
from encodery.tokens.kind._special import SPECIAL_TOKENS, UNK, add_special_tokens

PREFIX = "##"
CODE_POINTS = 0x110000
CHARACTERS_AT_ONCE = 1 << 22
MIN_ALPHABET = 1000
OUTSIDE = r"[^\s"
"""How the expression for characters outside the alphabet begins."""
MAX_WORD_CHARACTERS = 1000
"""A longer run without spaces is one unknown token. Sentences of scripts that write no spaces are runs."""


@dataclass(frozen=True, kw_only=True)
class Wordpiece(TokenizerKind):
    """The default. Case and accents are kept unless they are asked to be folded.

    Attributes:
        lowercase: ignore case. A small model of English gains by it; in German it merges nouns and verbs.
        strip_accents: ignore accents, umlauts and vowel signs, as the uncased BERT does for English.
        character_coverage: the most frequent characters become pieces, as many as make up this fraction of the text,
            and at least 1,000. Each other character is [UNK] by itself; the letters around it stay known.
        min_frequency: pairs of pieces that are less frequent are not merged.

        encodery tokens train corpus --out tokenizer kind=wordpiece vocab_size=16384
    """

    lowercase: bool = False
    strip_accents: bool = False
    character_coverage: float = 0.9999
    min_frequency: int = 2

    def __post_init__(self) -> None:
        check_interval(self, "0 < x <= 1", "character_coverage")

    def train(self, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """See `TokenizerKind.train`."""
        bare = self._tokenizer_of(models.WordPiece(unk_token=UNK))
        room = max((vocab_size - len(SPECIAL_TOKENS)) // 2, 1)
        alphabet = _alphabet(bare.normalizer, texts, self.character_coverage)[:room]
        continuing = [PREFIX + character for character in alphabet]
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size,
            min_frequency=self.min_frequency,
            special_tokens=[*SPECIAL_TOKENS, *continuing],
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
            continuing_subword_prefix=PREFIX,
            show_progress=False,
        )
        bare.train_from_iterator(texts, trainer)
        vocabulary = bare.get_vocab(with_added_tokens=True)
        pieces = models.WordPiece(vocabulary, unk_token=UNK, max_input_chars_per_word=MAX_WORD_CHARACTERS)
        return add_special_tokens(self._tokenizer_of(pieces, alphabet))

    def _tokenizer_of(self, model: models.WordPiece, alphabet: Sequence[str] = ()) -> Tokenizer:
        """A tokenizer that cuts characters outside the alphabet out of their words; without one, none."""
        tokenizer = Tokenizer(model)
        tokenizer.normalizer = normalizers.BertNormalizer(
            clean_text=True, handle_chinese_chars=True, strip_accents=self.strip_accents, lowercase=self.lowercase
        )
        cuts: list[pre_tokenizers.PreTokenizer] = [pre_tokenizers.BertPreTokenizer()]
        if alphabet:
            cuts.insert(0, pre_tokenizers.Split(Regex(_outside(alphabet)), "isolated"))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cuts)
        tokenizer.decoder = decoders.WordPiece(prefix=PREFIX)
        return tokenizer


def add_characters(spec: dict[str, Any], characters: Iterable[str]) -> None:
    """Make characters part of words in the table of a tokenizer (its JSON), so that pieces with them can be added. A
    tokenizer that was not trained here and cuts no character out of its words stays as it is."""
    cuts = (spec.get("pre_tokenizer") or {}).get("pretokenizers") or [{}]
    pattern = cuts[0].get("pattern", {}).get("Regex", "") if cuts[0].get("type") == "Split" else ""
    if pattern.startswith(OUTSIDE):
        more = "".join(f"\\x{{{ord(character):x}}}" for character in sorted(set(characters)))
        cuts[0]["pattern"]["Regex"] = f"{pattern[:-1]}{more}]"


def _outside(alphabet: Sequence[str]) -> str:
    """A regular expression for one character that is neither in the alphabet nor a space."""
    points = sorted(map(ord, alphabet))
    starts = [point for i, point in enumerate(points) if i == 0 or points[i - 1] != point - 1]
    ends = [point for i, point in enumerate(points) if i == len(points) - 1 or points[i + 1] != point + 1]
    ranges = "".join(f"\\x{{{start:x}}}-\\x{{{end:x}}}" for start, end in zip(starts, ends, strict=True))
    return f"{OUTSIDE}{ranges}]"


def _alphabet(normalizer: normalizers.Normalizer, texts: Iterable[str], coverage: float) -> list[str]:
    """The characters of the normalised texts but spaces, from common to rare, ties by code point: the most frequent
    ones that make up the fraction `coverage` of the text, and never fewer than `MIN_ALPHABET` if there are as many."""
    counts = np.zeros(CODE_POINTS, np.int64)
    texts_held: list[str] = []
    size = 0
    for text in texts:
        texts_held.append(normalizer.normalize_str(text))
        size += len(texts_held[-1])
        if size > CHARACTERS_AT_ONCE:
            counts += _count("".join(texts_held))
            texts_held, size = [], 0
    counts += _count("".join(texts_held))
    counts[[point for point in np.flatnonzero(counts).tolist() if chr(point).isspace()]] = 0
    order = np.argsort(-counts, kind="stable")
    covered = np.cumsum(counts[order])
    number = max(int(np.searchsorted(covered, coverage * covered[-1])) + 1, MIN_ALPHABET)
    return [chr(point) for point in order[: min(number, int(np.count_nonzero(counts)))].tolist()]


def _count(text: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    points = np.frombuffer(text.encode("utf-32-le", errors="replace"), dtype="<u4")
    return np.bincount(points, minlength=CODE_POINTS)
