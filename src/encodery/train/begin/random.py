"""The weights as the model's initialisation drew them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from encodery.base.parts import name_of
from encodery.model.network import Model
from encodery.tokens.store import TokenSplit
from encodery.train.begin import Begin


@dataclass(frozen=True, kw_only=True)
class Random(Begin):
    """Nothing is known of the text."""

    def fill(self, model: Model, split: TokenSplit, generator: torch.Generator) -> str:
        """Nothing."""
        return name_of(self)
