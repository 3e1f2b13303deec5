"""Adapters: a narrow two-layer network behind sublayers, added to what they give. arXiv:1902.00751

With `parallel` it reads what the sublayer read instead of what it gave (arXiv:2110.04366). Its second map starts at
zero, so that at first nothing changes.
Shapes: T tokens, H width, R size of the neck.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.model.extensions import ExtensionModules, ModelExtension, Sublayer, SublayerAdapter
from encodery.model.shape import Shape
from encodery.model.weights import ActivationName, Linear, activation

STD = 0.02


@dataclass(frozen=True, kw_only=True)
class Adapter(ModelExtension):
    """`size` is R; `places` the sublayers; `scale` multiplies what is added."""

    size: int = 64
    sublayers: tuple[Sublayer, ...] = ("attention", "ffn")
    parallel: bool = False
    activation: ActivationName = "gelu"
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise SettingsError(f"size = {self.size}: must be at least 1.")
        if not self.sublayers or len(set(self.sublayers)) < len(self.sublayers):
            raise SettingsError(f"places = {self.sublayers}: name attention, ffn or both, each once.")

    def build(self, shape: Shape) -> ExtensionModules:
        places = [(layer, place) for layer in range(shape.depth) for place in self.sublayers]
        return ExtensionModules(sublayer_adapters={at: _AdapterModule(self, shape) for at in places})


class _AdapterModule(SublayerAdapter):
    def __init__(self, settings: Adapter, shape: Shape) -> None:
        super().__init__()
        self.down = Linear(shape.width, settings.size, bias=True)
        self.up = Linear(settings.size, shape.width, bias=True)
        self.parallel, self.scale = settings.parallel, settings.scale
        self.activate = activation(settings.activation)

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        added = self.up(self.activate(self.down(x if self.parallel else y)))
        return torch.add(y, added, alpha=self.scale)

    def init_weights(self, generator: torch.Generator) -> None:
        nn.init.normal_(self.down.weight, std=STD, generator=generator)
        for weight in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(weight)
