"""CoSENT: of two pairs, the one labelled more alike shall have the higher cosine. doi:10.1109/TASLP.2024.3402087

Only the order of the labels counts, whatever their scale. Shapes: B pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.embed.losses import LossInputs, Similarity
from encodery.embed.losses._bases import ScoreLoss
from encodery.embed.losses._ranking import pairwise_ranking_loss
from encodery.objectives import Count, LossTerm


@dataclass(frozen=True, kw_only=True)
class CoSENT(ScoreLoss):
    """`temperature` divides the similarities."""

    temperature: float = 0.05
    similarity: Similarity = "cosine"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise SettingsError(f"temperature = {self.temperature}: must be positive.")

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        return {"cosent": 1}

    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        assert inputs.target is not None
        scores = inputs.pairs(0, 1, self.similarity) / self.temperature
        return {"cosent": LossTerm(pairwise_ranking_loss(scores, inputs.target), 1)}
