"""AnglE: the order of CoSENT, asked of the angle between vectors read as complex numbers. arXiv:2309.12871

The cosine is flat where it is near ±1 and teaches little there; the angle of a quotient is not. The first half of a
vector is the real part, the second the imaginary one; an odd last number gets a zero beside it. With `cosine` > 0 the
loss of `cosent` is added at that weight, as in the paper. Shapes: B pairs, K width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.embed.losses import LossInputs
from encodery.embed.losses._bases import ScoreLoss
from encodery.embed.losses._ranking import pairwise_ranking_loss
from encodery.objectives import Count, LossTerm


@dataclass(frozen=True, kw_only=True)
class AnglE(ScoreLoss):
    """`temperature` divides angles and cosines."""

    temperature: float = 0.05
    cosent_weight: float = 0.0

    def __post_init__(self) -> None:
        if not self.temperature > 0 or self.cosent_weight < 0:
            raise SettingsError(
                f"temperature = {self.temperature}, cosine = {self.cosent_weight}: must be positive, and not negative."
            )

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        return {"angle": 1, "cosent": 1} if self.cosent_weight else {"angle": 1}

    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        assert inputs.target is not None
        left, right = (F.normalize(_even(vector.float()), dim=1) for vector in inputs.vectors)
        (a, b), (c, d) = left.chunk(2, dim=1), right.chunk(2, dim=1)
        # |Re + Im| of (a + bi) / (c + di), summed over the halves' places; both have length 1.
        angle = ((a * c + b * d) + (b * c - a * d)).sum(1).abs()
        found = {"angle": LossTerm(pairwise_ranking_loss(angle / self.temperature, inputs.target), 1)}
        if self.cosent_weight:
            scores = inputs.pairs(0, 1) / self.temperature
            found["cosent"] = LossTerm(pairwise_ranking_loss(scores, inputs.target), 1, self.cosent_weight)
        return found


def _even(vectors: Tensor) -> Tensor:
    return F.pad(vectors, (0, vectors.shape[1] % 2))
