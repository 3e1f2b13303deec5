"""Fewer layers: a model that keeps some layers of a trained one, such as every second. arXiv:1910.01108 (DistilBERT)

The other weights stay. Differs from `coalesce`, which averages neighbouring layers: each layer here is one that was
trained. The outputs change; distillation from the whole model (`encodery compress`) is what makes the result useful.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from encodery.base.errors import SettingsError
from encodery.model.load import LoadedModel
from encodery.model.network import model_of_state
from encodery.model.shape import Batch
from encodery.surgery import Surgery, SurgeryResult
from encodery.surgery._layers import deepen
from encodery.surgery._sizes import size_metrics


@dataclass(frozen=True, kw_only=True)
class SelectLayers(Surgery):
    """Use it to make a student that starts from its teacher.

    `layers`: the layers to keep, counted from 0, in ascending order (empty: 0, 2, 4, ...).

        encodery model edit run --surgery select_layers --out student layers=[0,2,4]
    """

    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if list(self.layers) != sorted(set(self.layers)) or min(self.layers, default=0) < 0:
            raise SettingsError(f"layers = {list(self.layers)}: must be different numbers from 0 on, ascending.")

    def operate(self, loaded: LoadedModel, generator: torch.Generator, batches: Sequence[Batch] = ()) -> SurgeryResult:
        old = loaded.model.settings
        if old.layer_groups:
            raise SettingsError(
                f"{loaded.path}: its layers share weights (layer_groups), so their number stays the same."
            )
        kept = self.layers or tuple(range(0, old.depth, 2))
        if not kept or kept[-1] >= old.depth:
            raise SettingsError(f"layers = {list(kept)}: the model has {old.depth} layers, counted from 0.")
        sizes = tuple(old.layers[layer] for layer in kept) if old.layers else ()
        new = dataclasses.replace(old, depth=len(kept), layers=sizes)
        for layer, source in enumerate(kept):
            if new.mask.reach(layer, new.depth) != old.mask.reach(source, old.depth):
                raise SettingsError(
                    f"layers = {list(kept)}: the mask would give layer {source} of the model another window as layer "
                    f"{layer} of the smaller one. Keep layers in the rhythm of the mask."
                )
        state = loaded.model.state_dict()
        model = model_of_state(new, deepen(state, kept, new))
        return SurgeryResult(model, metrics=dict(size_metrics(state, model)))
