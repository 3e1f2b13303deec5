"""Adapters: bottlenecks behind the sublayers of every layer. arXiv:1902.00751, with `parallel` arXiv:2110.04366."""

from __future__ import annotations

from dataclasses import dataclass

from encodery.model.bottleneck import Bottleneck, BottleneckSettings
from encodery.model.extensions import ExtensionModules, ModelExtension
from encodery.model.shape import Shape


@dataclass(frozen=True, kw_only=True)
class Adapter(BottleneckSettings, ModelExtension):
    """Use it through `adapt=adapters`, which adds it to a trained model and trains it alone. Settings: see
    `BottleneckSettings`.

        [model]
        extensions = [{is = "adapter", size = 64}]
    """

    def incompatibility(self, shape: Shape) -> str | None:
        if shape.layer is None:
            return "layers share their weights (layer_groups), so none can have an adapter alone."
        absent = {"attention": not shape.heads, "ffn": not shape.intermediate_size}
        for sublayer in self.sublayers:
            if absent[sublayer]:
                return f"layer {shape.layer} has no {sublayer} sublayer: leave '{sublayer}' out of sublayers."
        return None

    def build(self, shape: Shape) -> ExtensionModules:
        sites = [(layer, sublayer) for layer in range(shape.depth) for sublayer in self.sublayers]
        return ExtensionModules(sublayer_adapters={site: Bottleneck(self, shape.width) for site in sites})
