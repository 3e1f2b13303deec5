"""A tokenizer of a few words, and models whose answers are known."""

from __future__ import annotations

import pytest
import tokenizers

from encodery.tokens.tokenizer import Tokenizer

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "dog", "sat", "ran", "##s", ".", "on"]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    inner = tokenizers.Tokenizer(tokenizers.models.WordPiece({p: n for n, p in enumerate(PIECES)}, unk_token="[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    inner.decoder = tokenizers.decoders.WordPiece()
    inner.add_special_tokens(PIECES[:5])
    made = Tokenizer(inner)
    made.set_template()
    return made
