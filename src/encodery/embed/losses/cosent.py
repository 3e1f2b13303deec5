"""CoSENT: of two pairs, the one with the higher label gets the higher similarity. doi:10.1109/TASLP.2024.3402087

Only the order of the labels matters, whatever their scale. Shapes: B pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from encodery.base.settings import check_interval
from encodery.embed.loss_inputs import LossInputs, Similarity
from encodery.embed.losses._bases import ScoreLoss
from encodery.embed.losses._ranking import pairwise_ranking_loss
from encodery.objectives import Count, LossTerm


@dataclass(frozen=True, kw_only=True)
class CoSENT(ScoreLoss):
    """Use it for pairs with a similarity score, such as STS; it is the default for them. `temperature` divides the
    similarities.

        loss = "cosent"
    """

    temperature: float = 0.05
    similarity: Similarity = "cosine"

    def __post_init__(self) -> None:
        check_interval(self, "0 < x", "temperature")

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        return {"cosent": 1}

    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        assert inputs.target is not None
        scores = inputs.pairs(0, 1, self.similarity) / self.temperature
        return {"cosent": LossTerm(pairwise_ranking_loss(scores, inputs.target), 1)}
