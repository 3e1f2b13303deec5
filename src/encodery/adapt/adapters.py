"""Adapters: narrow networks behind attention and feed-forward learn, with the norms; all else stands. arXiv:1902.00751

`parallel` puts them beside the sublayers instead (arXiv:2110.04366); `places = ["ffn"]` only behind the feed-forward.
They cannot be folded: they become part of the model, under `extensions` of its settings.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from encodery.adapt import Adaptation
from encodery.model.extensions import Sublayer
from encodery.model.extensions.adapter import Adapter
from encodery.model.network import Model
from encodery.model.weights import ActivationName


@dataclass(frozen=True, kw_only=True)
class Adapters(Adaptation):
    """`size` of the neck, `places` of attention and ffn, `scale` of what is added; `norms`: norms learn as well."""

    size: int = 64
    sublayers: tuple[Sublayer, ...] = ("attention", "ffn")
    parallel: bool = False
    activation: ActivationName = "gelu"
    scale: float = 1.0
    norms: bool = True

    def __post_init__(self) -> None:
        self._insert()

    def apply(self, model: Model, generator: torch.Generator) -> None:
        model.requires_grad_(False)
        for module in model.add_extension(self._insert(), generator).sublayer_adapters.values():
            module.requires_grad_(True)
        for name, module in model.encoder.named_modules():
            if self.norms and name.endswith("norm"):
                module.requires_grad_(True)

    def _insert(self) -> Adapter:
        return Adapter(
            size=self.size,
            sublayers=self.sublayers,
            parallel=self.parallel,
            activation=self.activation,
            scale=self.scale,
        )
