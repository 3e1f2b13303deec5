"""Whole words: a word's tokens are hidden all or none (whole-word masking of BERT, arXiv 1810.04805, release of 2019).

A word runs from a token that begins one to the next such token of the same sequence; a special token ends it.
Differs from `token` in the unit only, and equals it where every token begins a word. Mask, random id or keep is
decided for each token, as in the original.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.corrupt import Corruption, Vocabulary


@dataclass(frozen=True, kw_only=True)
class WholeWordMasking(Corruption):
    """A word is a unit."""

    def unit_starts(self, ids: Tensor, breaks: Tensor, vocabulary: Vocabulary, generator: torch.Generator) -> Tensor:
        """(T,) bool: the tokens that begin a word."""
        return vocabulary.word_start[ids]
