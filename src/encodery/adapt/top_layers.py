"""Only the upper layers learn; what lies below stays as it is. arXiv:1911.03090

`layers` = 0 with `embeddings` trains the word table alone, as when a model is moved to another language or vocabulary
(arXiv:1910.11856). Equals full training of the encoder at all layers with `embeddings`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from encodery.adapt import Adaptation
from encodery.base.errors import SettingsError
from encodery.model.network import Model


@dataclass(frozen=True, kw_only=True)
class TopLayers(Adaptation):
    """`layers`: how many learn, from the top, with the final norm; `embeddings`: so do the tables below; `heads`: so
    does what predicts words."""

    parameter_efficient: ClassVar[bool] = False

    layers: int = 2
    embeddings: bool = False
    heads: bool = False

    def apply(self, model: Model, generator: torch.Generator) -> None:
        encoder = model.encoder
        depth = len(encoder.blocks)
        if not 0 <= self.layers <= depth:
            raise SettingsError(f"layers = {self.layers}: the model has {depth}.")
        if not (self.layers or self.embeddings or self.heads):
            raise SettingsError("layers = 0, embeddings = false, heads = false: nothing would learn.")
        model.requires_grad_(False)
        learning = [*list(encoder.blocks)[depth - self.layers :]]
        learning += [encoder.final_norm] if self.layers else []
        learning += [encoder.embeddings, encoder.embedding_norm, encoder.positions] if self.embeddings else []
        learning += [model.heads] if self.heads else []
        for module in learning:
            module.requires_grad_(True)
