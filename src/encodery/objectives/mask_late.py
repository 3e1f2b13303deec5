"""Masked language modelling whose [MASK]s join at a later layer: the first ones see real tokens only. arXiv:2211.04898

"Mask more and mask later": what a [MASK] gathers needs only a few layers, and the more is hidden, the less the first
layers compute. Equals `mlm` with `layer` = 0. All layers stay in the model, which without [MASK]s is an ordinary one.
Shapes: T tokens, H width.
"""

from __future__ import annotations

from dataclasses import dataclass

from encodery.base.errors import SettingsError
from encodery.corrupt import Vocabulary
from encodery.model import count
from encodery.model.network import Model, ModelSettings
from encodery.model.shape import Batch, Output
from encodery.objectives import ObjectiveModule
from encodery.objectives._masked import MaskedObjective, MaskedObjectiveModule
from encodery.objectives._visible import LateMasks, VisibleTokens


@dataclass(frozen=True, kw_only=True)
class MaskLate(MaskedObjective):
    """`layer`: so many layers see no [MASK] (None: half of them)."""

    layer: int | None = None

    def build(self, model: ModelSettings, vocabulary: Vocabulary) -> ObjectiveModule:
        """The module; it has no weights. Raises `SettingsError` where no layer is left for the [MASK]s."""
        layer = model.depth // 2 if self.layer is None else self.layer
        if not 0 <= layer < max(model.depth, 1):
            raise SettingsError(f"objective.layer = {layer}: must be at least 0 and below model.depth = {model.depth}.")
        return _MaskLateModule(self, model, vocabulary, layer)


class _MaskLateModule(MaskedObjectiveModule):
    def __init__(self, settings: MaskLate, model: ModelSettings, vocabulary: Vocabulary, layer: int) -> None:
        super().__init__(settings, model, vocabulary)
        self.layer = layer
        self.keeps_mlm_head = layer == 0

    def encode(self, model: Model, batch: Batch) -> Output:
        """See `ObjectiveModule`."""
        output: Output = model(batch, sequence_transform=LateMasks(VisibleTokens(batch, self.mask_id), self.layer))
        return output

    def _flops(self, model: ModelSettings, length: float, predicted: float, left_out: float) -> float:
        return count.flops_per_token(model, length, predicted, early=(self.layer, 1 - left_out))
