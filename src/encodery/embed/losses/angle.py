"""AnglE: the ranking of CoSENT by the angle between embeddings read as complex numbers. arXiv:2309.12871

The gradient of the cosine vanishes near ±1; that of the angle of a quotient does not. The first half of an embedding is
the real part, the second half the imaginary part; an odd number of dimensions is padded with a zero. With
`cosent_weight` > 0 the loss of `cosent` is added at that weight, as in the paper. Shapes: B pairs, K dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from encodery.base.settings import check_at_least, check_interval
from encodery.embed.loss_inputs import LossInputs
from encodery.embed.losses._bases import ScoreLoss
from encodery.embed.losses._ranking import pairwise_ranking_loss
from encodery.objectives import Count, LossTerm


@dataclass(frozen=True, kw_only=True)
class AnglE(ScoreLoss):
    """Use it for scored pairs, many of them very similar or very different.

    `temperature` divides angles and cosines.

    loss = {is = "angle", cosent_weight = 1.0}
    """

    temperature: float = 0.05
    cosent_weight: float = 0.0

    def __post_init__(self) -> None:
        check_interval(self, "0 < x", "temperature")
        check_at_least(self, 0, "cosent_weight")

    @property
    def needs_vectors(self) -> bool:
        return True

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        return {"angle": 1, "cosent": 1} if self.cosent_weight else {"angle": 1}

    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        assert inputs.target is not None
        left, right = (F.normalize(_pad_to_even(vector.float()), dim=1) for vector in inputs.vectors)
        (a, b), (c, d) = left.chunk(2, dim=1), right.chunk(2, dim=1)
        # |Re + Im| of (a + bi) / (c + di), summed over the dimensions; both have length 1.
        angle = ((a * c + b * d) + (b * c - a * d)).sum(1).abs()
        terms = {"angle": LossTerm(pairwise_ranking_loss(angle / self.temperature, inputs.target), 1)}
        if self.cosent_weight:
            scores = inputs.pairs(0, 1) / self.temperature
            terms["cosent"] = LossTerm(pairwise_ranking_loss(scores, inputs.target), 1, self.cosent_weight)
        return terms


def _pad_to_even(vectors: Tensor) -> Tensor:
    return F.pad(vectors, (0, vectors.shape[1] % 2))
