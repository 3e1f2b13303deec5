"""The weights as the model's own initialisation draws them.

Use it to reproduce papers, or to compare with the other parts: `data_init.is=random`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from encodery.base.parts import name_of
from encodery.model.network import Model
from encodery.tokens.store import TokenSplit
from encodery.train.data_init import DataInit


@dataclass(frozen=True, kw_only=True)
class RandomInit(DataInit):
    """Nothing is computed from the text."""

    def apply(self, model: Model, split: TokenSplit, generator: torch.Generator) -> str:
        """Changes nothing."""
        return name_of(self)
