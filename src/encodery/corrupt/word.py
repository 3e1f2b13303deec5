"""Whole words: the tokens of a word are all masked or none is (whole-word masking of BERT, arXiv:1810.04805, 2019).

A word goes from a token that begins one to the next such token of the same sequence; a special token ends it. Differs
from `token` in the unit only, and equals it if every token begins a word. Whether a token becomes [MASK], a random id,
or stays is drawn for each token, as in the original.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.corrupt import Corruption, Vocabulary


@dataclass(frozen=True, kw_only=True)
class WholeWordMasking(Corruption):
    """A word is a unit. Use it if a part of a word gives away the rest too easily.

    objective.corruption.is=word objective.corruption.rate=0.3
    """

    def unit_starts(self, ids: Tensor, breaks: Tensor, vocabulary: Vocabulary, generator: torch.Generator) -> Tensor:
        """Return (T,) bool: the tokens that begin a word."""
        return vocabulary.word_start[ids]
