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
from encodery.model.foreign import build
from encodery.model.load import Loaded
from encodery.model.network import ModelSettings
from encodery.surgery import Changed, Surgery
from encodery.surgery._channels import Sources, State, cyclic, drawn, from_above, widened
from encodery.surgery._layers import deepened, silenced, sources
from encodery.surgery._sizes import axes, changing, check_larger, resized, told

KEPT = 1e-3
"""A drift beyond this is none of rounding."""


@dataclass(frozen=True, kw_only=True)
class Grow(Surgery):
    """`width`, `heads`, `inner`, `depth`: the new sizes; without them heads and inner follow the width, and the rest
    stays. The head size stays. `how`: fpi or aki. `uneven`: from 0 (equal shares) to below 1. `copies`: even (all
    channels in turn) or random (any channel, as the paper draws them). `layers`: stack, repeat or identity."""

    width: int | None = None
    heads: int | None = None
    inner: int | None = None
    depth: int | None = None
    how: Literal["fpi", "aki"] = "fpi"
    uneven: float = 0.5
    copies: Literal["even", "random"] = "even"
    layers: Literal["stack", "repeat", "identity"] = "stack"

    def __post_init__(self) -> None:
        if not 0 <= self.uneven < 1:
            raise SettingsError(f"uneven = {self.uneven}: must lie in 0 <= uneven < 1.")

    def operate(self, loaded: Loaded, generator: torch.Generator) -> Changed:
        settings = loaded.model.settings
        new = resized(loaded, self.width, self.heads, self.inner, self.depth)
        check_larger(settings, new)
        old = loaded.model.state_dict()
        state, channels = self.grown(old, settings, new, generator)
        model = build(new, state)
        made = golden.make(loaded.model)
        drift = golden.drift(model, {**made, "hidden": made["hidden"][:, channels]})
        if self.layers == "identity" and new.shape.width == settings.shape.width and drift > KEPT:
            raise SettingsError(
                "layers = identity: the blocks of this model change what they pass on even where they add nothing "
                "(post-norm), so added layers change what it computes; use stack or repeat."
            )
        return Changed(model, figures={**told(old, model), "drift": round(drift, 9)})

    def grown(
        self, state: State, old: ModelSettings, new: ModelSettings, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The tensors of a model of the settings `new`, in the precision of `state`; and for each channel of its hidden
        states (H new,) the one of the old model that it copies."""
        before, after = changing(old, new)
        found, channels = dict(state), torch.arange(new.width)
        if before:
            paths = axes(old, before)
            pairs: Sources = drawn(before, after, generator) if self.copies == "random" else cyclic(before, after)
            found = widened(found, paths, pairs, self.uneven, generator)
            if self.how == "aki":
                found = from_above(found, paths, pairs)
            channels = pairs.channels.get("width", channels)
        if new.depth != old.depth:
            origin = sources(old.depth, new.depth, "repeat" if self.layers == "repeat" else "stack")
            found = deepened(found, origin, new)
            if self.layers == "identity":
                found = silenced(found, range(old.depth, new.depth), new)
        return found, channels
