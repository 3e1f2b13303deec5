"""Growth: a larger model that starts from what a smaller one learnt.

Wider, by copies whose shares add up to one (`how` = fpi, function-preserving initialisation of bert2BERT,
arXiv:2110.07143): where each channel is copied equally often (a width that is a multiple of the old one) the larger
model computes what the smaller one did. A norm over channels copied unequally often has another mean and variance; the
paper lives with that, and so do we: `drift` in the figures says how far the outputs moved. Slopes that depend on the
number of heads (`alibi`) and waves that depend on the width (`sinusoidal`) move them too. `how` = aki (advanced
knowledge) gives the added channels of a layer the weights of the layer above instead: no function is preserved, no two
channels are alike. Copies in equal shares get equal gradients for ever; `uneven` shares (arXiv:2310.07999) keep the
function and part them, and 0 is the paper's.

Deeper, afterwards: stack repeats the whole (StackBERT, ICML 2019), repeat each layer beside itself; identity is stack
whose copies write nothing into the residual stream at first, which preserves the function of a pre-norm model.
Shapes: T tokens, H width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.model import golden
from encodery.model.load import LoadedModel
from encodery.model.network import model_of_state
from encodery.model.settings import ModelSettings
from encodery.surgery import Surgery, SurgeryResult
from encodery.surgery._channels import (
    ChannelSources,
    State,
    cyclic_sources,
    random_sources,
    take_from_layer_above,
    widen,
)
from encodery.surgery._layers import deepen, layer_sources, silence
from encodery.surgery._sizes import axes, changed_sizes, check_larger, resized_settings, size_metrics

MAX_DRIFT = 1e-3
"""A drift beyond this is none of rounding."""


@dataclass(frozen=True, kw_only=True)
class Grow(Surgery):
    """`width`, `heads`, `inner`, `depth`: the new sizes; without them heads and inner follow the width, and the rest
    stays. The head size stays. `how`: fpi or aki. `uneven`: from 0 (equal shares) to below 1. `copies`: even (all
    channels in turn) or random (any channel, as the paper draws them). `layers`: stack, repeat or identity."""

    width: int | None = None
    heads: int | None = None
    intermediate_size: int | None = None
    depth: int | None = None
    method: Literal["fpi", "aki"] = "fpi"
    symmetry_breaking: float = 0.5
    copies: Literal["even", "random"] = "even"
    layers: Literal["stack", "repeat", "identity"] = "stack"

    def __post_init__(self) -> None:
        if not 0 <= self.symmetry_breaking < 1:
            raise SettingsError(f"uneven = {self.symmetry_breaking}: must lie in 0 <= uneven < 1.")

    def operate(self, loaded: LoadedModel, generator: torch.Generator) -> SurgeryResult:
        settings = loaded.model.settings
        new = resized_settings(loaded, self.width, self.heads, self.intermediate_size, self.depth)
        check_larger(settings, new)
        old = loaded.model.state_dict()
        state, channels = self.grow(old, settings, new, generator)
        model = model_of_state(new, state)
        made = golden.golden_outputs(loaded.model)
        drift = golden.drift(model, {**made, "hidden": made["hidden"][:, channels]})
        if self.layers == "identity" and new.shape.width == settings.shape.width and drift > MAX_DRIFT:
            raise SettingsError(
                "layers = identity: the blocks of this model change what they pass on even where they add nothing "
                "(post-norm), so added layers change what it computes; use stack or repeat."
            )
        return SurgeryResult(model, metrics={**size_metrics(old, model), "drift": round(drift, 9)})

    def grow(
        self, state: State, old: ModelSettings, new: ModelSettings, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The tensors of a model of the settings `new`, in the precision of `state`; and for each channel of its hidden
        states (H new,) the one of the old model that it copies."""
        before, after = changed_sizes(old, new)
        found, channels = dict(state), torch.arange(new.width)
        if before:
            paths = axes(old, before)
            pairs: ChannelSources = (
                random_sources(before, after, generator) if self.copies == "random" else cyclic_sources(before, after)
            )
            found = widen(found, paths, pairs, self.symmetry_breaking, generator)
            if self.method == "aki":
                found = take_from_layer_above(found, paths, pairs)
            channels = pairs.channels.get("width", channels)
        if new.depth != old.depth:
            origin = layer_sources(old.depth, new.depth, "repeat" if self.layers == "repeat" else "stack")
            found = deepen(found, origin, new)
            if self.layers == "identity":
                found = silence(found, range(old.depth, new.depth), new)
        return found, channels
