"""Masked language modelling whose [MASK]s join at a later layer: the first layers see real tokens only.

"Mask more and mask later" (arXiv:2211.04898): a [MASK] needs only a few layers to gather its context, and the more
tokens are masked, the less the first layers compute. Equals `mlm` if `layer` = 0. All layers stay in the model, which
is an ordinary one on text without [MASK]s. Shapes: T tokens, H width.
"""

from __future__ import annotations

from dataclasses import dataclass

from encodery.base.errors import SettingsError
from encodery.corrupt import Vocabulary
from encodery.model import count
from encodery.model.network import Model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch, Output
from encodery.objectives import ObjectiveModule
from encodery.objectives._masked import MaskedObjective, MaskedObjectiveModule
from encodery.objectives._visible import LateMasks, VisibleTokens


@dataclass(frozen=True, kw_only=True)
class MaskLate(MaskedObjective):
    """Use it to pre-train at a high mask rate in less time. It has no weights. `layer`: the number of layers that see
    no [MASK] (default: half of the layers).

        objective.is=mask_late objective.layer=2 objective.corruption.rate=0.5
    """

    layer: int | None = None

    def build(self, model: ModelSettings, vocabulary: Vocabulary) -> ObjectiveModule:
        """Return the module. Raises `SettingsError` if no layer is left for the [MASK]s."""
        layer = model.depth // 2 if self.layer is None else self.layer
        if not 0 <= layer < max(model.depth, 1):
            raise SettingsError(f"objective.layer = {layer}: must be at least 0 and below model.depth = {model.depth}.")
        return _MaskLateModule(self, model, vocabulary, layer)


class _MaskLateModule(MaskedObjectiveModule):
    def __init__(self, settings: MaskLate, model: ModelSettings, vocabulary: Vocabulary, layer: int) -> None:
        super().__init__(settings, model, vocabulary)
        self.layer = layer
        self.keeps_heads = layer == 0

    def encode(self, model: Model, batch: Batch) -> Output:
        late = LateMasks(VisibleTokens(batch, self.mask_id), self.layer)
        output: Output = model(batch, sequence_transform=late)
        return output

    def pass_flops(self, model: ModelSettings, length: float, predicted: float, masked: float) -> float:
        return count.flops_per_token(model, length, predicted, early=(self.layer, 1 - masked))
