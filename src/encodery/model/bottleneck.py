"""A bottleneck: a narrow two-layer network that is added to a sublayer's output. arXiv:1902.00751

With `parallel` it reads the sublayer's input instead of its output (arXiv:2110.04366). Its second map is initialised as
zero, so that at first nothing changes. Shapes: T tokens, H width, R size of the bottleneck.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.base.settings import check_at_least
from encodery.model.extensions import Sublayer, SublayerAdapter
from encodery.model.weights import ActivationName, Linear, activation

STD = 0.02


@dataclass(frozen=True, kw_only=True)
class BottleneckSettings:
    """`size` is R; `sublayers`: attention, ffn or both; `scale` multiplies what is added."""

    size: int = 64
    sublayers: tuple[Sublayer, ...] = ("attention", "ffn")
    parallel: bool = False
    activation: ActivationName = "gelu"
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_at_least(self, 1, "size")
        if not self.sublayers or len(set(self.sublayers)) < len(self.sublayers):
            raise SettingsError(f"sublayers = {self.sublayers}: must name attention, ffn or both, each once.")


class Bottleneck(SublayerAdapter):
    """The network of one sublayer."""

    def __init__(self, settings: BottleneckSettings, width: int) -> None:
        super().__init__()
        self.down = Linear(width, settings.size, bias=True)
        self.up = Linear(settings.size, width, bias=True)
        self.parallel, self.scale = settings.parallel, settings.scale
        self.activate = activation(settings.activation)

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        added = self.up(self.activate(self.down(x if self.parallel else y)))
        return torch.add(y, added, alpha=self.scale)

    def init_weights(self, generator: torch.Generator) -> None:
        nn.init.normal_(self.down.weight, std=STD, generator=generator)
        for weight in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(weight)
