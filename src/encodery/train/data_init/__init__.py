"""Data-dependent initialisation: weights of a new model that are computed from the text before training.

A part changes the first weights of a randomly initialised model, by counts over the training split; the same seed gives
the same weights. A model that continues from another one (`init_from`) starts with that model's weights."""

from __future__ import annotations

import abc

import torch

from encodery.base.parts import Part
from encodery.model.network import Model
from encodery.tokens.store import TokenSplit


class DataInit(Part):
    """Contract of a data-dependent initialisation."""

    @abc.abstractmethod
    def apply(self, model: Model, split: TokenSplit, generator: torch.Generator) -> str:
        """Change weights of `model`, on the CPU, in place.

        Returns the name of the initialisation that was possible: that of a simpler part if the model or the text lacks
        what this one needs."""
