"""The special tokens of every tokenizer trained here."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer

PAD, UNK, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL_TOKENS = (PAD, UNK, CLS, SEP, MASK)


def add_special_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Register the special tokens, which the model has as ids 0 to 4; [MASK] takes the space before it, so that
    "a [MASK]" asks for a piece that brings its own space."""
    tokenizer.add_special_tokens(
        [AddedToken(name, lstrip=name == MASK, normalized=False, special=True) for name in SPECIAL_TOKENS]
    )
    return tokenizer
