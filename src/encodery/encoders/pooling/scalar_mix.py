"""A learned weighted sum of all layers, then the mean over the tokens. arXiv:1802.05365 (ELMo's scalar mix)

Scale · Σ weight of a layer · its mean; the weights are the softmax of one trained number per layer. Differs from
`layers` by the learned weights; equals it before training, when all layers have the same weight.
Shapes: T tokens, B sequences, H width, L layers.
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
    """`num_layers`: how many of the last layers are mixed; all, the embeddings' output included, if not given. `norm`:
    each token of each layer is first scaled to mean 0 and variance 1, so that no layer has more weight because its
    values are larger. `lr_scale`: the learning rate of the weights as a multiple of the model's.

    Use it when it is not known which layers separate the texts of a task: `encoder.pooling.is=scalar_mix`
    """

    num_layers: int | None = None
    norm: bool = False
    lr_scale: float = 100.0

    def __post_init__(self) -> None:
        if (self.num_layers is not None and self.num_layers < 1) or not self.lr_scale > 0:
            raise SettingsError(
                f"num_layers = {self.num_layers}, lr_scale = {self.lr_scale}: must be at least 1 and above 0."
            )

    def build(self, shape: Shape) -> PoolingModule:
        layers = shape.depth + 1
        if self.num_layers is not None and self.num_layers > layers:
            raise SettingsError(
                f"num_layers = {self.num_layers}: the model has {layers} layers, the embeddings included."
            )
        return _MixModule(self.num_layers or layers, self.norm, self.lr_scale)


class _MixModule(PoolingModule):
    keep_layers = True

    def __init__(self, layers: int, norm: bool, lr_scale: float) -> None:
        super().__init__()
        self.norm, self.lr_scale = norm, lr_scale
        self.weights = nn.Parameter(torch.zeros(layers))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, output: Output, batch: Batch) -> Tensor:
        assert output.layers is not None
        selected = (*output.layers[:-1], output.hidden)[-len(self.weights) :]
        ones = torch.ones_like(batch.ids)
        means = torch.stack([weighted_mean(self._normalised(layer.float()), ones, batch) for layer in selected])
        weights = (self.weights * self.lr_scale).softmax(0)
        return self.scale * torch.einsum("l,lbh->bh", weights, means)

    def _normalised(self, hidden: Tensor) -> Tensor:
        return F.layer_norm(hidden, hidden.shape[-1:]) if self.norm else hidden
