"""WordPiece: words are split at spaces and punctuation, then into the longest known pieces (BERT, arXiv:1810.04805).

The trainer of `tokenizers` numbers continuing characters in the order of a random hash, which changes ties and so the
pieces; here the alphabet is counted and numbered first, so that training is repeatable.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from encodery.tokens.kind import TokenizerKind
from encodery.tokens.kind._special import SPECIAL_TOKENS, UNK, add_special_tokens

PREFIX = "##"
CODE_POINTS = 0x110000
CHARACTERS_AT_ONCE = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Wordpiece(TokenizerKind):
    """Use it for English and similar languages; it is the default. `cased`: keep case; `strip_accents`: None follows
    `cased`, as BERT does; `limit_alphabet`: how many characters may be pieces; `min_frequency`: pairs that are less
    frequent are not merged.

        encodery tokens train corpus --out tokenizer kind=wordpiece vocab_size=16384
    """

    cased: bool = False
    strip_accents: bool | None = None
    limit_alphabet: int = 1000
    min_frequency: int = 2

    def train(self, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """See `TokenizerKind.train`."""
        bare = self._tokenizer_of(models.WordPiece(unk_token=UNK))
        room = max((vocab_size - len(SPECIAL_TOKENS)) // 2, 1)
        alphabet = _alphabet(bare.normalizer, texts)[: min(self.limit_alphabet, room)]
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
        pieces = models.WordPiece(bare.get_vocab(with_added_tokens=True), unk_token=UNK)
        return add_special_tokens(self._tokenizer_of(pieces))

    def _tokenizer_of(self, model: models.WordPiece) -> Tokenizer:
        tokenizer = Tokenizer(model)
        tokenizer.normalizer = normalizers.BertNormalizer(
            clean_text=True, handle_chinese_chars=True, strip_accents=self.strip_accents, lowercase=not self.cased
        )
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece(prefix=PREFIX)
        return tokenizer


def _alphabet(normalizer: normalizers.Normalizer, texts: Iterable[str]) -> list[str]:
    """The characters of the normalised texts but spaces, from common to rare, ties by code point."""
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
    order = np.argsort(-counts, kind="stable")
    return [chr(point) for point in order[: int(np.count_nonzero(counts))].tolist() if not chr(point).isspace()]


def _count(text: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    points = np.frombuffer(text.encode("utf-32-le", errors="replace"), dtype="<u4")
    return np.bincount(points, minlength=CODE_POINTS)
