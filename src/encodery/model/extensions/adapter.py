"""Adapters: a narrow two-layer network after sublayers, whose output is added to theirs. arXiv:1902.00751

With `parallel` it reads the sublayer's input instead of its output (arXiv:2110.04366). Its second map starts at zero,
so that nothing changes at first. Shapes: T tokens, H width, R bottleneck size.
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
    """Use it through `adapt=adapters`, which adds it to a trained model and trains it alone.

    `size` is R; `sublayers` are those that get an adapter; `parallel` makes it read the sublayer's input; `scale`
    multiplies its output.

        [model]
        extensions = [{is = "adapter", size = 64}]
    """

    size: int = 64
    sublayers: tuple[Sublayer, ...] = ("attention", "ffn")
    parallel: bool = False
    activation: ActivationName = "gelu"
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise SettingsError(f"size = {self.size}: must be at least 1.")
        if not self.sublayers or len(set(self.sublayers)) < len(self.sublayers):
            raise SettingsError(f"sublayers = {self.sublayers}: must name attention, ffn or both, each once.")

    def build(self, shape: Shape) -> ExtensionModules:
        places = [(layer, sublayer) for layer in range(shape.depth) for sublayer in self.sublayers]
        return ExtensionModules(sublayer_adapters={place: _AdapterModule(self, shape) for place in places})


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
