"""Growth: a larger model that starts from what a smaller one learnt.

Wider, by copies whose fractions add up to one (`method` = fpi, function-preserving initialisation of bert2BERT,
arXiv:2110.07143): if each channel is copied equally often (a width that is a multiple of the old one), the larger model
computes what the smaller one did. A norm over channels that are copied unequally often has another mean and variance;
the paper accepts that, and so do we: `drift` in the metrics says how far the outputs moved. Slopes that depend on the
number of heads (`alibi`) and waves that depend on the width (`sinusoidal`) move them too. `method` = aki (advanced
knowledge initialisation) gives the added channels of a layer the weights of the layer above instead: the function is
not preserved, and no two channels are equal. Copies with equal fractions get equal gradients for ever; unequal ones
(`symmetry_breaking`, arXiv:2310.07999) keep the function and let copies differ; 0 is bert2BERT's.

Deeper, afterwards: stack repeats the whole (StackBERT, ICML 2019), repeat puts each layer next to itself; identity is
stack whose copies at first write nothing into the residual stream, which preserves the function of a pre-norm model.
Shapes: T tokens, H width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.settings import check_interval
from encodery.model import golden
from encodery.model.load import LoadedModel
from encodery.model.network import model_of_state
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
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
"""A larger drift is more than rounding."""


@dataclass(frozen=True, kw_only=True)
class Grow(Surgery):
    """Use it to continue training a small model at a larger size. `width`, `heads`, `intermediate_size`, `depth`: the
    new sizes; heads and intermediate size follow the width unless given; the head size stays. `method`: fpi or aki.
    `symmetry_breaking`: from 0 (equal fractions) to below 1. `copies`: even (channels in turn) or random (any channel,
    as the paper draws them). `layers`: stack, repeat or identity.

        encodery model edit run --surgery grow --out grown width=256 depth=4
    """

    width: int | None = None
    heads: int | None = None
    intermediate_size: int | None = None
    depth: int | None = None
    method: Literal["fpi", "aki"] = "fpi"
    symmetry_breaking: float = 0.5
    copies: Literal["even", "random"] = "even"
    layers: Literal["stack", "repeat", "identity"] = "stack"

    def __post_init__(self) -> None:
        check_interval(self, "0 <= x < 1", "symmetry_breaking")

    def operate(self, loaded: LoadedModel, generator: torch.Generator, batches: Sequence[Batch] = ()) -> SurgeryResult:
        settings = loaded.model.settings
        new = resized_settings(loaded, self.width, self.heads, self.intermediate_size, self.depth)
        check_larger(settings, new)
        old = loaded.model.state_dict()
        state, channels = self.grow(old, settings, new, generator)
        model = model_of_state(new, state)
        outputs = golden.golden_outputs(loaded.model)
        drift = golden.drift(model, {**outputs, "hidden": outputs["hidden"][:, channels]})
        if self.layers == "identity" and new.shape.width == settings.shape.width and drift > MAX_DRIFT:
            raise SettingsError(
                "layers = identity: the blocks of this model change their input even if they add nothing (post-norm), "
                "so added layers change its outputs; use stack or repeat."
            )
        return SurgeryResult(model, metrics={**size_metrics(old, model), "drift": round(drift, 9)})

    def grow(
        self, state: State, old: ModelSettings, new: ModelSettings, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the tensors of a model with the settings `new`, in the precision of `state`, and for each channel of
        its hidden states (new H,) the channel of the old model that it copies."""
        before, after = changed_sizes(old, new)
        grown, channels = dict(state), torch.arange(new.width)
        if before:
            paths = axes(old, before)
            sources: ChannelSources = (
                random_sources(before, after, generator) if self.copies == "random" else cyclic_sources(before, after)
            )
            grown = widen(grown, paths, sources, self.symmetry_breaking, generator)
            if self.method == "aki":
                grown = take_from_layer_above(grown, paths, sources)
            channels = sources.channels.get("width", channels)
        if new.depth != old.depth:
            layers = layer_sources(old.depth, new.depth, "repeat" if self.layers == "repeat" else "stack")
            grown = deepen(grown, layers, new)
            if self.layers == "identity":
                grown = silence(grown, range(old.depth, new.depth), new)
        return grown, channels
