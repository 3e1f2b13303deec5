"""The weights as the model's initialisation drew them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from encodery.base.parts import name_of
from encodery.model.network import Model
from encodery.tokens.store import TokenSplit
from encodery.train.data_init import DataInit


@dataclass(frozen=True, kw_only=True)
class RandomInit(DataInit):
    """Nothing is known of the text."""

    def apply(self, model: Model, split: TokenSplit, generator: torch.Generator) -> str:
        """Nothing."""
        return name_of(self)
