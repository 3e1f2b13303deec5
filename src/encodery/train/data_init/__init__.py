"""How a new model begins: with what text tells before anything is trained.

A part changes the first weights of a model that was drawn at random, from counts over the training split; the same
seed gives the same weights. A model that goes on from another (`init_from`) begins with that one's.
"""

from __future__ import annotations

import abc

import torch

from encodery.base.parts import Part
from encodery.model.network import Model
from encodery.tokens.store import TokenSplit


class DataInit(Part):
    """Contract of a beginning."""

    @abc.abstractmethod
    def apply(self, model: Model, split: TokenSplit, generator: torch.Generator) -> str:
        """Change weights of `model`, on the CPU, in place. The name of the beginning that this came to: a lesser one's
        where the model or the text has no place for this one."""
