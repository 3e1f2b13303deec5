"""Adapters: narrow networks behind attention and feed-forward learn, with the norms; the rest is frozen.

arXiv:1902.00751. `parallel` puts them beside the sublayers instead (arXiv:2110.04366); `sublayers = ["ffn"]` only
behind the feed-forward. They cannot be merged: they become part of the model, under `extensions` of its settings.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from encodery.adapt import Adaptation
from encodery.model.bottleneck import BottleneckSettings
from encodery.model.extensions.adapter import Adapter
from encodery.model.network import Model


@dataclass(frozen=True, kw_only=True)
class Adapters(BottleneckSettings, Adaptation):
    """Use it to keep many tasks of one model when a few percent of its weights may be added. `norms`: norms learn too;
    the other settings are those of the bottleneck.

        encodery finetune classify rows.csv --model run --out tuned adapt.is=adapters adapt.size=32
    """

    norms: bool = True

    def apply(self, model: Model, generator: torch.Generator) -> None:
        model.requires_grad_(False)
        for module in model.add_extension(self._extension(), generator).sublayer_adapters.values():
            module.requires_grad_(True)
        for name, module in model.encoder.named_modules():
            if self.norms and name.endswith("norm"):
                module.requires_grad_(True)

    def _extension(self) -> Adapter:
        return Adapter(**{field.name: getattr(self, field.name) for field in dataclasses.fields(BottleneckSettings)})
