"""Byte level: the 256 bytes are the vocabulary; nothing is trained (CANINE and ByT5, arXiv:2103.06874, 2105.13626).

Ids: the special tokens, then byte b as 5 + b. Text is decoded byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from encodery.tokens.byte_characters import BYTE_CHARACTERS
from encodery.tokens.kind import TokenizerKind
from encodery.tokens.kind._special import SPECIAL_TOKENS, add_special_tokens


@dataclass(frozen=True, kw_only=True)
class Byte(TokenizerKind):
    """Use it for models without a vocabulary. It has no settings; `vocab_size` is ignored, there are 261 ids.

    encodery tokens train corpus --out tokenizer kind=byte
    """

    @property
    def needs_texts(self) -> bool:
        """False: the bytes are known."""
        return False

    def train(self, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """See `TokenizerKind.train`."""
        tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate([*SPECIAL_TOKENS, *BYTE_CHARACTERS])}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer.decoder = decoders.ByteLevel()
        return add_special_tokens(tokenizer)
