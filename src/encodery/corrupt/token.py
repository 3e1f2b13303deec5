"""Single tokens, each hidden independently of its neighbours: the masking of BERT (arXiv 1810.04805).

The default part. The draw is new at every visit of a document (RoBERTa, arXiv 1907.11692).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.corrupt import Corruption, Vocabulary


@dataclass(frozen=True, kw_only=True)
class TokenMasking(Corruption):
    """Every token is a unit of its own."""

    def unit_starts(self, ids: Tensor, breaks: Tensor, vocabulary: Vocabulary, generator: torch.Generator) -> Tensor:
        """(T,) bool, all True."""
        return torch.ones_like(breaks)
