"""Only the upper layers learn; the layers below stay as they are. arXiv:1911.03090

`layers` = 0 with `embeddings` trains the embeddings alone, as when a model is moved to another language or vocabulary
(arXiv:1910.11856). All layers with `embeddings` equal full training of the encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from encodery.adapt import Adaptation
from encodery.base.errors import SettingsError
from encodery.model.network import Model


@dataclass(frozen=True, kw_only=True)
class TopLayers(Adaptation):
    """Use it to train faster, or to adapt embeddings only. `layers`: the number of layers that learn, from the top,
    with the final norm; `embeddings`: the embeddings learn too; `heads`: the language-model head learns too.

        encodery finetune classify rows.csv --model run --out tuned adapt.is=top_layers adapt.layers=1
    """

    parameter_efficient: ClassVar[bool] = False

    layers: int = 2
    embeddings: bool = False
    heads: bool = False

    def apply(self, model: Model, generator: torch.Generator) -> None:
        encoder = model.encoder
        depth = len(encoder.groups)
        if not 0 <= self.layers <= depth:
            raise SettingsError(f"layers = {self.layers}: the model has {depth}.")
        if not (self.layers or self.embeddings or self.heads):
            raise SettingsError("layers = 0, embeddings = false, heads = false: nothing would learn.")
        if encoder.shares_layers and 0 < self.layers < depth:
            raise SettingsError(f"layers = {self.layers}: this model's layers share weights, so all or none can learn.")
        model.requires_grad_(False)
        learning: list[nn.Module] = [*encoder.layer_blocks[depth - self.layers :]]
        learning += [encoder.final_norm] if self.layers else []
        learning += [encoder.embeddings, encoder.embedding_norm, encoder.positions] if self.embeddings else []
        learning += [model.heads] if self.heads else []
        for module in learning:
            module.requires_grad_(True)
