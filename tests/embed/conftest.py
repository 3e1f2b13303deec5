"""A tokenizer of letters and a small random encoder."""

from __future__ import annotations

import pytest
import tokenizers

from encodery.embed.embedder import Embedder
from encodery.embed.settings import EmbedSettings
from encodery.model.network import ModelSettings, build_model
from encodery.tokens.tokenizer import Tokenizer

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """One token a letter."""
    pieces = [*SPECIALS, *"abcdefghijklmnopqrstuvwxyz"]
    inner = tokenizers.Tokenizer(tokenizers.models.WordPiece({p: n for n, p in enumerate(pieces)}, unk_token="[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"\s|\S"), "isolated")
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.Whitespace(), tokenizers.pre_tokenizers.Split(tokenizers.Regex("."), "isolated")]
    )
    inner.add_special_tokens(SPECIALS)
    made = Tokenizer(inner)
    made.set_template()
    return made


@pytest.fixture(scope="session")
def embedder(tokenizer: Tokenizer) -> Embedder:
    """Reads 10 letters and two special tokens."""
    settings = ModelSettings(width=32, depth=2, heads=2, vocab=64, max_length=12)
    return Embedder(build_model(settings, seed=0), tokenizer, EmbedSettings(prompts={"ask": "q "}), device="cpu")
