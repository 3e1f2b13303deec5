"""The special tokens of every tokenizer that is trained here."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer

PAD, UNK, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL_TOKENS = (PAD, UNK, CLS, SEP, MASK)


def add_special_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Register the special tokens, ids 0 to 4 of the model. [MASK] absorbs the space before it, so that "a [MASK]"
    predicts a piece that brings its own space."""
    tokenizer.add_special_tokens(
        [AddedToken(name, lstrip=name == MASK, normalized=False, special=True) for name in SPECIAL_TOKENS]
    )
    return tokenizer
