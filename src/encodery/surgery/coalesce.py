"""Coalescing: a smaller model whose channels and layers are means of those of a larger one. arXiv:2404.07999

The first step of a V-cycle: coalesce, train the small model for a while, grow it back (`grow` with `symmetry_breaking`
= 0, which is de-coalescing), and average the result with the large model as it was (`merging.average`), so that copies
differ again. Channels that become one are averaged where they are computed and added where they are summed over: what
`grow` made of a model comes back from it, exactly if all channels were copied equally often. Layers that become one are
averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.model.load import LoadedModel
from encodery.model.network import model_of_state
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
from encodery.surgery import Surgery, SurgeryResult
from encodery.surgery._channels import State, cyclic_sources, narrow
from encodery.surgery._layers import average_layers, drop_unused, layer_sources
from encodery.surgery._sizes import SIZES, axes, changed_sizes, resized_settings, size_metrics


@dataclass(frozen=True, kw_only=True)
class Coalesce(Surgery):
    """Use it to make a smaller model of a trained one. `width`, `heads`, `intermediate_size`, `depth`: the new sizes;
    without any of them each is halved, otherwise heads and intermediate size follow the width, and the rest stays, as
    does the head size. `layers`: repeat merges neighbours, stack merges layers that are the new depth apart; `grow`
    with the same order is the inverse.

        encodery model edit run --surgery coalesce --out small depth=2
    """

    width: int | None = None
    heads: int | None = None
    intermediate_size: int | None = None
    depth: int | None = None
    layers: Literal["stack", "repeat"] = "repeat"

    def operate(self, loaded: LoadedModel, generator: torch.Generator, batches: Sequence[Batch] = ()) -> SurgeryResult:
        old = loaded.model.settings
        new = self.sizes(loaded)
        for name in (*SIZES, "depth"):
            before, after = getattr(old.shape, name), getattr(new.shape, name)
            if not 1 <= after <= before:
                raise SettingsError(f"{name} = {after}: must satisfy 1 <= {name} <= {before}, that of the model.")
        state = loaded.model.state_dict()
        model = model_of_state(new, self.coalesce(state, old, new))
        return SurgeryResult(model, metrics=dict(size_metrics(state, model)))

    def sizes(self, loaded: LoadedModel) -> ModelSettings:
        """Return the settings of the smaller model."""
        requested = (self.width, self.heads, self.intermediate_size, self.depth)
        if any(size is not None for size in requested):
            return resized_settings(loaded, *requested)
        shape = loaded.model.settings.shape
        halves = (shape.width // 2, shape.heads // 2, shape.intermediate_size // 2, max(shape.depth // 2, 1))
        return resized_settings(loaded, *halves)

    def coalesce(self, state: State, old: ModelSettings, new: ModelSettings) -> dict[str, Tensor]:
        """Return the tensors of a model with the settings `new`, in the precision of `state`."""
        before, after = changed_sizes(old, new)
        small = narrow(state, axes(old, before), cyclic_sources(after, before))
        if new.depth != old.depth:
            small = drop_unused(average_layers(small, layer_sources(new.depth, old.depth, self.layers)), new)
        return small
