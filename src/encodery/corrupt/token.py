"""Single tokens, each masked independently of its neighbours: the masking of BERT (arXiv:1810.04805).

The default part. The tokens are drawn again at every visit of a document (RoBERTa, arXiv:1907.11692).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.corrupt import Corruption, Vocabulary


@dataclass(frozen=True, kw_only=True)
class TokenMasking(Corruption):
    """Every token is a unit. Use it unless you want harder predictions (`word`, `span`).

    objective.corruption.is=token objective.corruption.rate=0.3
    """

    def unit_starts(self, ids: Tensor, breaks: Tensor, vocabulary: Vocabulary, generator: torch.Generator) -> Tensor:
        """Return (T,) bool, all True."""
        return torch.ones_like(breaks)
