"""The squared error between the cosine of a pair and its score. arXiv:1908.10084

Unlike in `cosent` the scale of the scores matters; they are rescaled to 0 … 1 when the data is read. Shapes: B pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from encodery.embed.loss_inputs import LossInputs
from encodery.embed.losses._bases import ScoreLoss
from encodery.objectives import Count, LossTerm


@dataclass(frozen=True, kw_only=True)
class CosineMSE(ScoreLoss):
    """Use it for pairs whose cosine is to equal a score, such as that of a cross-encoder. It has no settings.

    loss = "cosine_mse"
    """

    @property
    def in_batch(self) -> bool:
        return False

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        return {"cosine_mse": examples}

    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        assert inputs.target is not None
        cosine = inputs.pairs(0, 1)
        error = (cosine - inputs.target.to(cosine.dtype)).square()
        return {"cosine_mse": LossTerm(error.sum(), len(error))}
