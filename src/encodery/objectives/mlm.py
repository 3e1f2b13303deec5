"""Masked language modelling: hide some tokens, predict them from both sides (BERT, arXiv 1810.04805)."""

from __future__ import annotations

from dataclasses import dataclass

from encodery.base.errors import SettingsError
from encodery.corrupt import Vocabulary
from encodery.model.network import ModelSettings
from encodery.objectives import ObjectiveModule
from encodery.objectives._masked import MaskedObjective, MaskedObjectiveModule


@dataclass(frozen=True, kw_only=True)
class MaskedLM(MaskedObjective):
    """See `Masked`."""

    def max_predictions(self, tokens: int) -> int | None:
        """See `Objective`: as many as the largest share that is predicted."""
        corruption = self.corruption
        if not corruption.fixed_predictions:
            raise SettingsError(
                "train.static needs a fixed number of predictions: objective.corruption.fixed_predictions=true."
            )
        rates = [corruption.rates(i / 100) for i in range(101)]
        if any(predicted > corrupted for corrupted, predicted in rates):
            raise SettingsError(
                "train.static: predict_rate above rate repeats the batch; give a predict_rate below it."
            )
        asked = corruption.rate if corruption.predict_rate is None else corruption.predict_rate
        return round(asked.maximum * tokens)

    def build(self, model: ModelSettings, vocabulary: Vocabulary) -> ObjectiveModule:
        """The module; it has no weights."""
        return MaskedObjectiveModule(self, model, vocabulary)
