"""Byte-level byte-pair encoding: a space belongs to the word after it. arXiv:1907.11692 (RoBERTa)

Every byte is a piece, so nothing is unknown; with `normalize` none the text is decoded byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from encodery.base.errors import SettingsError
from encodery.tokens.kind import TokenizerKind
from encodery.tokens.kind._special import SPECIAL_TOKENS, add_special_tokens


@dataclass(frozen=True, kw_only=True)
class Bpe(TokenizerKind):
    """Use it for text in many scripts, or with emoji and code. `normalize`: the Unicode form that text is brought to
    first; `lowercase`: ignore case; `add_prefix_space`: begin a text as if a space preceded it; `min_frequency`: pairs
    that are less frequent are not merged.

        encodery tokens train corpus --out tokenizer kind=bpe vocab_size=16384
    """

    normalize: Literal["nfc", "nfkc", "none"] = "nfc"
    lowercase: bool = False
    add_prefix_space: bool = False
    min_frequency: int = 2

    def train(self, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """See `TokenizerKind.train`. Raises `SettingsError` if `vocab_size` has no room for the 256 bytes."""
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        if vocab_size < len(alphabet) + len(SPECIAL_TOKENS):
            raise SettingsError(
                f"vocab_size = {vocab_size}: bytes and special tokens alone are {len(alphabet) + len(SPECIAL_TOKENS)}."
            )
        tokenizer = Tokenizer(models.BPE())
        forms: list[normalizers.Normalizer] = []
        if self.normalize != "none":
            forms.append(normalizers.NFC() if self.normalize == "nfc" else normalizers.NFKC())
        forms += [normalizers.Lowercase()] if self.lowercase else []
        if forms:
            tokenizer.normalizer = normalizers.Sequence(forms)
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=self.add_prefix_space, use_regex=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=self.min_frequency,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=alphabet,
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return add_special_tokens(tokenizer)
