"""Centre tiling: a larger model filled with the weights of a smaller one, as ModernBERT-large was initialised.

arXiv:2412.13663. Each matrix of the larger model has the smaller one in its middle and continues it periodically on all
sides; layer i comes from the layer at the same relative depth. Differs from `grow`: nothing is divided, so the function
is not preserved and sums grow; there are no fractions to choose. Several matrices in one (queries, keys, values; gate
and value) are tiled separately, heads as whole heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from encodery.model.load import LoadedModel
from encodery.model.network import model_of_state
from encodery.model.shape import Batch
from encodery.surgery import Surgery, SurgeryResult
from encodery.surgery._channels import copy_channels, tiled_sources
from encodery.surgery._layers import deepen
from encodery.surgery._sizes import axes, changed_sizes, check_larger, resized_settings, size_metrics


@dataclass(frozen=True, kw_only=True)
class CentreTile(Surgery):
    """Use it to initialise a larger model that will be trained for long. `width`, `heads`, `intermediate_size`,
    `depth`: the new sizes; heads and intermediate size follow the width unless given; the head size stays.

        encodery model edit run --surgery tile --out tiled width=256 depth=4
    """

    width: int | None = None
    heads: int | None = None
    intermediate_size: int | None = None
    depth: int | None = None

    def operate(self, loaded: LoadedModel, generator: torch.Generator, batches: Sequence[Batch] = ()) -> SurgeryResult:
        old = loaded.model.settings
        new = resized_settings(loaded, self.width, self.heads, self.intermediate_size, self.depth)
        check_larger(old, new)
        before, after = changed_sizes(old, new)
        state = loaded.model.state_dict()
        wide = copy_channels(state, axes(old, before), tiled_sources(before, after))
        layers = [min(round(layer * old.depth / new.depth), old.depth - 1) for layer in range(new.depth)]
        model = model_of_state(new, deepen(wide, layers, new))
        return SurgeryResult(model, metrics=dict(size_metrics(state, model)))
