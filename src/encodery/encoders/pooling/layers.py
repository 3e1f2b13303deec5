"""The mean over the tokens of several layers: the first and the last, or the last few. arXiv:2104.01767 (WhiteningBERT)

The middle layers of an encoder that was not trained for embeddings separate sentences better than the last one. Equals
`mean` for layers = [-1]. Shapes: T tokens, B sequences, H width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.encoders.pooling import Pooling, PoolingModule
from encodery.encoders.pooling._sums import weighted_mean
from encodery.model.shape import Batch, Output, Shape


@dataclass(frozen=True, kw_only=True)
class Layers(Pooling):
    """`layers`: 0 is the output of the embeddings, 1 that of the first block, -1 the model's own output.

    Use it when an encoder is used without training for embeddings: `encoder.pooling.is=layers`
    """

    layers: tuple[int, ...] = (1, -1)

    def __post_init__(self) -> None:
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise SettingsError(f"layers = {list(self.layers)}: must name at least one layer, and none twice.")

    def build(self, shape: Shape) -> PoolingModule:
        for layer in self.layers:
            if not -shape.depth - 1 <= layer <= shape.depth:
                raise SettingsError(f"layers: there is no layer {layer}; the model has 0 to {shape.depth}.")
        return _LayersModule(self.layers, shape.depth)


class _LayersModule(PoolingModule):
    keep_layers = True

    def __init__(self, layers: tuple[int, ...], depth: int) -> None:
        super().__init__()
        self.layers, self.last = layers, depth

    def forward(self, output: Output, batch: Batch) -> Tensor:
        assert output.layers is not None
        selected = [output.hidden if layer in (-1, self.last) else output.layers[layer] for layer in self.layers]
        hidden = torch.stack([layer.float() for layer in selected]).mean(0)
        return weighted_mean(hidden, torch.ones_like(batch.ids), batch)
