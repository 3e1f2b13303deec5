"""Centre tiling: a larger model filled with the weights of a smaller one, as ModernBERT-large was begun.
arXiv:2412.13663

Each matrix of the larger model has the smaller one in its middle and repeats it to all sides; layer i comes from the
layer at the same share of the depth. Differs from `grow`: nothing is divided, so the function is not preserved and
sums grow; no shares, no choices. Several matrices in one (queries, keys, values; gate and value) are tiled each by
itself, heads as whole heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from encodery.model.foreign import build
from encodery.model.load import Loaded
from encodery.surgery import Changed, Surgery
from encodery.surgery._channels import copied, tiled
from encodery.surgery._layers import deepened
from encodery.surgery._sizes import axes, changing, check_larger, resized, told


@dataclass(frozen=True, kw_only=True)
class Tile(Surgery):
    """`width`, `heads`, `inner`, `depth`: the new sizes; without them heads and inner follow the width, and the rest
    stays. The head size stays."""

    width: int | None = None
    heads: int | None = None
    inner: int | None = None
    depth: int | None = None

    def operate(self, loaded: Loaded, generator: torch.Generator) -> Changed:
        old = loaded.model.settings
        new = resized(loaded, self.width, self.heads, self.inner, self.depth)
        check_larger(old, new)
        before, after = changing(old, new)
        given = loaded.model.state_dict()
        state = copied(given, axes(old, before), tiled(before, after))
        layers = [min(round(layer * old.depth / new.depth), old.depth - 1) for layer in range(new.depth)]
        model = build(new, deepened(state, layers, new))
        return Changed(model, figures=dict(told(given, model)))
