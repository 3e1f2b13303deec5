"""Unigram: the pieces under which the text is most probable (arXiv:1804.10959); unknown characters become bytes.

The trainer of `tokenizers` orders characters without a score by a random hash and sums in a random order; here scores
are rounded, such characters have one score, and pieces are numbered by (score, text), so that training is repeatable.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from encodery.base.errors import SettingsError
from encodery.tokens.kind import TokenizerKind
from encodery.tokens.kind._special import SPECIAL_TOKENS, UNK, add_special_tokens

SCORE_DIGITS = 6
UNLIKELY = -1000.0  # score of pieces that text must not become: special tokens and spelled bytes, if written in it
REQUIRED_CHARACTERS = sorted(set("".join(SPECIAL_TOKENS) + "<0x123456789ABCDEF>"))


@dataclass(frozen=True, kw_only=True)
class Unigram(TokenizerKind):
    """Use it for languages without spaces between words. Training takes about 14 s per MB.

    Attributes:
        lowercase: ignore case.
        byte_fallback: spell unknown characters as bytes (256 of the ids) instead of [UNK].
        max_piece_length: the characters of the longest piece.

        encodery tokens train corpus --out tokenizer kind=unigram vocab_size=16384
    """

    lowercase: bool = False
    byte_fallback: bool = True
    max_piece_length: int = 16

    @property
    def sample_bytes(self) -> int:
        """See `TokenizerKind.sample_bytes`. The trainer of `tokenizers` takes about 14 s per MB, on one thread."""
        return 10_000_000

    def train(self, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """See `TokenizerKind.train`. Raises `SettingsError` if `vocab_size` has no room for the bytes."""
        spelled = [f"<0x{byte:02X}>" for byte in range(256)] if self.byte_fallback else []
        room = vocab_size - len(spelled)
        if room < len(SPECIAL_TOKENS) + 32:
            raise SettingsError(
                f"vocab_size = {vocab_size}: a unigram vocabulary needs {len(spelled) + len(SPECIAL_TOKENS) + 32} ids."
            )
        bare = self._tokenizer_of(models.Unigram())
        trainer = trainers.UnigramTrainer(
            vocab_size=room,
            special_tokens=list(SPECIAL_TOKENS),
            unk_token=UNK,
            initial_alphabet=REQUIRED_CHARACTERS,
            max_piece_length=self.max_piece_length,
            show_progress=False,
        )
        bare.train_from_iterator(texts, trainer)
        pieces = _repeatable(
            json.loads(bare.to_str())["model"]["vocab"][len(SPECIAL_TOKENS) :], room - len(SPECIAL_TOKENS)
        )
        table = [(name, UNLIKELY) for name in SPECIAL_TOKENS] + pieces + [(name, UNLIKELY) for name in spelled]
        return add_special_tokens(
            self._tokenizer_of(models.Unigram(table, SPECIAL_TOKENS.index(UNK), self.byte_fallback))
        )

    def _tokenizer_of(self, model: models.Unigram) -> Tokenizer:
        tokenizer = Tokenizer(model)
        forms = [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
        tokenizer.normalizer = normalizers.Sequence(forms + ([normalizers.Lowercase()] if self.lowercase else []))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Sequence(
            [decoders.ByteFallback(), decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        return tokenizer


def _repeatable(pieces: list[tuple[str, float]], room: int) -> list[tuple[str, float]]:
    """The pieces with repeatable scores, from probable to improbable."""
    estimated = min((score for text, score in pieces if len(text) > 1), default=0.0)
    single = {text: round(score, SCORE_DIGITS) if score >= estimated - 0.5 else None for text, score in pieces}
    scores = [score for score in single.values() if score is not None]
    floor = round(min(scores, default=0.0) - 1.0, SCORE_DIGITS)
    scored = [(text, floor if score is None else score) for text, score in single.items()]
    return sorted(scored, key=lambda piece: (-piece[1], piece[0]))[:room]
