"""Masked language modelling: hide some tokens, predict them from both sides (BERT, arXiv 1810.04805)."""

from __future__ import annotations

from dataclasses import dataclass

from encodery.corrupt import Vocabulary
from encodery.model.network import ModelSettings
from encodery.objectives import ObjectiveModule
from encodery.objectives._masked import Masked, MaskedModule


@dataclass(frozen=True, kw_only=True)
class MLM(Masked):
    """See `Masked`."""

    def build(self, model: ModelSettings, vocabulary: Vocabulary) -> ObjectiveModule:
        """The module; it has no weights."""
        return MaskedModule(self, model, vocabulary)
