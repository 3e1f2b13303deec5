"""Masked language modelling: mask some tokens and predict them from both sides (BERT, arXiv:1810.04805)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from encodery.base.errors import SettingsError
from encodery.corrupt import Vocabulary
from encodery.model import count
from encodery.model.settings import ModelSettings
from encodery.objectives import LossRange, ObjectiveModule, RunSize
from encodery.objectives._masked import MaskedObjective, MaskedObjectiveModule


@dataclass(frozen=True, kw_only=True)
class MaskedLM(MaskedObjective):
    """Use it to pre-train an encoder, unless you have a reason for another objective. It has no weights.

    objective.is=mlm objective.corruption.is=word objective.corruption.rate=0.3
    """

    def max_predictions(self, tokens: int) -> int | None:
        """Return the number of positions that the largest predicted fraction of `tokens` gives."""
        corruption = self.corruption
        if not corruption.fixed_predictions:
            raise SettingsError(
                "train.static_shapes needs a fixed number of predictions: objective.corruption.fixed_predictions=true."
            )
        rates = [corruption.rates(i / 100) for i in range(101)]
        if any(predicted > corrupted for corrupted, predicted in rates):
            raise SettingsError(
                "train.static_shapes: a predict_rate above rate repeats the batch; set predict_rate below rate."
            )
        schedule = corruption.rate if corruption.predict_rate is None else corruption.predict_rate
        return round(schedule.maximum * tokens)

    def expected_loss(self, run: RunSize) -> LossRange | None:
        """See `Objective`: curves fitted to runs of this objective."""
        return LossRange.of(run)

    def build(self, model: ModelSettings, vocabulary: Vocabulary) -> ObjectiveModule:
        return _MaskedLMModule(self, model, vocabulary)


class _MaskedLMModule(MaskedObjectiveModule):
    supports_layerwise: ClassVar[bool] = True

    def pass_flops(self, model: ModelSettings, length: float, predicted: float, masked: float) -> float:
        return count.flops_per_token(model, length, predicted)
