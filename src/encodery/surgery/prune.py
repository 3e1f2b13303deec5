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

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from encodery.base.settings import check_at_least, check_interval
from encodery.model.layer_sizes import LayerSizes
from encodery.model.load import LoadedModel
from encodery.model.network import model_of_state
from encodery.model.shape import Batch
from encodery.surgery import Surgery, SurgeryResult
from encodery.surgery._sizes import size_metrics
from encodery.surgery._units import check_units, magnitude_scores, select_units, taylor_scores


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
        heads = self._kept(scores.heads, self.keep_heads, 1)
        units = self._kept(scores.units, self.keep_intermediate, self.multiple_of)
        state = dict(loaded.model.state_dict())
        for layer, (kept_heads, kept_units) in enumerate(zip(heads, units, strict=True)):
            select_units(state, loaded.model, layer, kept_heads, kept_units)
        sizes = tuple(
            LayerSizes(heads=len(kept_heads), intermediate_size=len(kept_units))
            for kept_heads, kept_units in zip(heads, units, strict=True)
        )
        smaller = dataclasses.replace(settings, head_size=settings.shape.head_size, layers=sizes)
        model = model_of_state(smaller, state)
        sizes_before_and_after = {
            "heads": sum(map(len, heads)),
            "heads_before": sum(map(len, scores.heads)),
            "intermediate_units": sum(map(len, units)),
            "intermediate_units_before": sum(map(len, scores.units)),
        }
        return SurgeryResult(
            model, metrics={**size_metrics(loaded.model.state_dict(), model), **sizes_before_and_after}
        )

    def _kept(self, scores: Sequence[Tensor], fraction: float, multiple_of: int) -> list[Tensor]:
        """The indices that stay in each layer, in ascending order; `scores`: (n,) for each layer."""
        if self.compare == "layer":
            counts = [round(fraction * len(own)) for own in scores]
        else:
            everything = torch.cat(list(scores))
            layers = torch.arange(len(scores)).repeat_interleave(torch.tensor([len(own) for own in scores]))
            best = everything.argsort(descending=True, stable=True)[: round(fraction * len(everything))]
            counts = layers[best].bincount(minlength=len(scores)).tolist()
        kept = []
        for own, count in zip(scores, counts, strict=True):
            rounded = min(max(-(-count // multiple_of), 1) * multiple_of, len(own))  # 0 of an absent sublayer
            kept.append(own.argsort(descending=True, stable=True)[:rounded].sort().values)
        return kept
