"""Coalescing: a smaller model whose channels and layers are means of those of a larger one. arXiv:2404.07999

The first step of a V-cycle: coalesce, train the small model for a while, grow it back (`grow` with `uneven` = 0, which
is de-coalescing), and mix the result into the large model as it was (`merging.average`), so that copies differ again.
Channels that become one are averaged where they are made and added where they are summed over: what `grow` made of a
model comes back from it, exactly where all channels were copied equally often. Layers that become one are averaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.model.load import LoadedModel
from encodery.model.network import model_of_state
from encodery.model.settings import ModelSettings
from encodery.surgery import Surgery, SurgeryResult
from encodery.surgery._channels import State, cyclic_sources, narrow
from encodery.surgery._layers import average_layers, drop_unused, layer_sources
from encodery.surgery._sizes import axes, changed_sizes, resized_settings, size_metrics


@dataclass(frozen=True, kw_only=True)
class Coalesce(Surgery):
    """`width`, `heads`, `inner`, `depth`: the new sizes; without any of them each is halved, else heads and inner
    follow the width, and the rest stays. The head size stays. `layers`: repeat makes one of neighbours, stack of layers
    that are the new depth apart; `grow` with the same order is the way back."""

    width: int | None = None
    heads: int | None = None
    intermediate_size: int | None = None
    depth: int | None = None
    layers: Literal["stack", "repeat"] = "repeat"

    def operate(self, loaded: LoadedModel, generator: torch.Generator) -> SurgeryResult:
        old = loaded.model.settings
        new = self.sizes(loaded)
        for name in ("width", "heads", "intermediate_size", "depth"):
            if not 1 <= getattr(new.shape, name) <= getattr(old.shape, name):
                raise SettingsError(
                    f"{name} = {getattr(new.shape, name)}: must lie in 1 <= {name} <= {getattr(old.shape, name)}, "
                    "that of the model."
                )
        given = loaded.model.state_dict()
        model = model_of_state(new, self.coalesce(given, old, new))
        return SurgeryResult(model, metrics=dict(size_metrics(given, model)))

    def sizes(self, loaded: LoadedModel) -> ModelSettings:
        """The settings of the smaller model."""
        asked = (self.width, self.heads, self.intermediate_size, self.depth)
        if any(size is not None for size in asked):
            return resized_settings(loaded, *asked)
        shape = loaded.model.settings.shape
        return resized_settings(
            loaded, shape.width // 2, shape.heads // 2, shape.intermediate_size // 2, max(shape.depth // 2, 1)
        )

    def coalesce(self, state: State, old: ModelSettings, new: ModelSettings) -> dict[str, Tensor]:
        """The tensors of a model of the settings `new`, in the precision of `state`."""
        before, after = changed_sizes(old, new)
        found = narrow(state, axes(old, before), cyclic_sources(after, before))
        if new.depth != old.depth:
            found = drop_unused(average_layers(found, layer_sources(new.depth, old.depth, self.layers)), new)
        return found
