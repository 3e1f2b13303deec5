"""Kinds of tokenizer: how text becomes pieces, and how the pieces are learnt from a corpus."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from typing import TYPE_CHECKING

from encodery.base.parts import Part

if TYPE_CHECKING:
    import tokenizers


class TokenizerKind(Part):
    """Contract of a kind of tokenizer.

    A trained tokenizer has [PAD] [UNK] [CLS] [SEP] [MASK] as its ids 0 to 4, and is the same for the same texts in
    any order and on any number of threads. Its template ([CLS] … [SEP]) is set by the caller.
    """

    @property
    def needs_texts(self) -> bool:
        """Whether `train` reads the texts."""
        return True

    @property
    def sample_bytes(self) -> int:
        """The size of the sample of text on which it is trained unless the settings give another."""
        return 200_000_000

    @abc.abstractmethod
    def train(self, texts: Iterable[str], vocab_size: int) -> tokenizers.Tokenizer:
        """Return a tokenizer of at most `vocab_size` ids. `texts` may be iterated more than once."""
