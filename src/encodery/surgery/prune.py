"""Structured pruning: the attention heads and intermediate units that matter least are removed. arXiv:1905.10650

The importance of a head or a unit is measured on texts: how much the loss of masked tokens would change, to first
order, if its output were zero, |Σ output · gradient| over the tokens of a text, on average over texts. Heads of
different layers are compared after dividing by the layer's root of the sum of squares, as in the paper; intermediate
units are treated in the same way (arXiv:1611.06440). `importance` = magnitude needs no texts: the product of the norms
of the weights before and after. Layers end with different sizes (`model.layers`); nothing is trained, so a little
pre-training or fine-tuning should follow. What is left computes what the whole model does if the outputs of removed
heads and units are zero. Shapes: T tokens, N heads, D head size, I intermediate size, H width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from encodery.base.settings import check_at_least, check_interval
from encodery.model.load import LoadedModel
from encodery.model.network import model_of_state
from encodery.model.shape import Batch
from encodery.model.units import best_units, check_units, magnitude_scores, selections, smaller_settings
from encodery.surgery import Surgery, SurgeryResult
from encodery.surgery._importance import taylor_scores
from encodery.surgery._sizes import size_metrics


@dataclass(frozen=True, kw_only=True)
class StructuredPruning(Surgery):
    """Use it to make a trained model smaller and faster in every engine. `keep_heads`, `keep_intermediate`: the
    fractions of all heads and of all intermediate units that stay. `importance`: taylor (measured on texts, for a model
    with a masked-language-model head) or magnitude. `compare`: whether layers compete (model), so that they end with
    different sizes, or every layer keeps the same fraction (layer). `multiple_of`: intermediate sizes are rounded up to
    a multiple of it. Every layer keeps at least one head, and `multiple_of` units.

        encodery model edit run --surgery prune --texts texts.txt --out pruned keep_heads=0.5 keep_intermediate=0.5
    """

    keep_heads: float = 0.5
    keep_intermediate: float = 0.5
    importance: Literal["taylor", "magnitude"] = "taylor"
    compare: Literal["model", "layer"] = "model"
    multiple_of: int = 8

    def __post_init__(self) -> None:
        check_interval(self, "0 <= x <= 1", "keep_heads", "keep_intermediate")
        check_at_least(self, 1, "multiple_of")

    @property
    def needs_texts(self) -> bool:
        return self.importance == "taylor"

    def operate(self, loaded: LoadedModel, generator: torch.Generator, batches: Sequence[Batch] = ()) -> SurgeryResult:
        settings = loaded.model.settings
        check_units(loaded.model)
        if self.importance == "magnitude":
            scores = magnitude_scores(loaded.model)
        else:
            scores = taylor_scores(loaded, batches, generator)
        kept = best_units(
            scores, self.keep_heads, self.keep_intermediate, self.multiple_of, per_layer=self.compare == "layer"
        )
        smaller, state = selections(loaded.model, kept), loaded.model.state_dict()
        pruned = {name: smaller[name].of(tensor) if name in smaller else tensor for name, tensor in state.items()}
        model = model_of_state(smaller_settings(settings, kept), pruned)
        sizes_before_and_after = {
            "heads": sum(map(len, kept.heads)),
            "heads_before": sum(map(len, scores.heads)),
            "intermediate_units": sum(map(len, kept.units)),
            "intermediate_units_before": sum(map(len, scores.units)),
        }
        return SurgeryResult(
            model, metrics={**size_metrics(loaded.model.state_dict(), model), **sizes_before_and_after}
        )
