"""A learned mix of all layers, then the mean over the tokens. arXiv:1802.05365 (ELMo's scalar mix)

Scale · Σ share of a layer · its mean, the shares being the softmax of one trained number a layer. Differs from `layers`
by the learned shares; equals it before training, where all layers count alike. Shapes: T tokens, B sequences, H width,
L layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.encoders.pooling import Pooling, PoolingModule
from encodery.encoders.pooling._sums import weighted_mean
from encodery.model.shape import Batch, Output, Shape


@dataclass(frozen=True, kw_only=True)
class ScalarMix(Pooling):
    """`last`: only the last so many layers are mixed; all, the embeddings' output too, if not given. `norm`: each token
    of each layer is brought to mean 0 and variance 1 first, so that no layer counts more for being larger. `rate`: how
    many times as fast as the model the shares learn."""

    num_layers: int | None = None
    norm: bool = False
    lr_scale: float = 100.0

    def __post_init__(self) -> None:
        if (self.num_layers is not None and self.num_layers < 1) or not self.lr_scale > 0:
            raise SettingsError(f"last = {self.num_layers}, rate = {self.lr_scale}: at least 1, and positive.")

    def build(self, shape: Shape) -> PoolingModule:
        layers = shape.depth + 1
        if self.num_layers is not None and self.num_layers > layers:
            raise SettingsError(f"last = {self.num_layers}: the model has {layers} layers, the embeddings among them.")
        return _MixModule(self.num_layers or layers, self.norm, self.lr_scale)


class _MixModule(PoolingModule):
    keep_layers = True

    def __init__(self, layers: int, norm: bool, rate: float) -> None:
        super().__init__()
        self.norm, self.rate = norm, rate
        self.weights = nn.Parameter(torch.zeros(layers))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, output: Output, batch: Batch) -> Tensor:
        assert output.layers is not None
        chosen = (*output.layers[:-1], output.hidden)[-len(self.weights) :]
        ones = torch.ones_like(batch.ids)
        means = torch.stack([weighted_mean(self._normed(layer.float()), ones, batch) for layer in chosen])
        shares = (self.weights * self.rate).softmax(0)
        return self.scale * torch.einsum("l,lbh->bh", shares, means)

    def _normed(self, hidden: Tensor) -> Tensor:
        return F.layer_norm(hidden, hidden.shape[-1:]) if self.norm else hidden
