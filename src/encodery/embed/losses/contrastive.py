"""Contrastive loss: similar pairs attract, other pairs repel up to a margin. doi:10.1109/CVPR.2006.100

For pairs labelled 1 or 0; a label in between weights both parts. Shapes: B pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from encodery.base.settings import check_interval
from encodery.embed.loss_inputs import LossInputs
from encodery.embed.losses._bases import ScoreLoss
from encodery.objectives import Count, LossTerm


@dataclass(frozen=True, kw_only=True)
class Contrastive(ScoreLoss):
    """Use it for pairs that are labelled as similar or not. `margin`: the distance 1 - cosine beyond which a pair that
    is not similar has no loss.

        loss = {is = "contrastive", margin = 0.5}
    """

    margin: float = 0.5

    def __post_init__(self) -> None:
        check_interval(self, "0 < x <= 2", "margin")

    @property
    def in_batch(self) -> bool:
        return False

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        return {"contrastive": examples}

    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        assert inputs.target is not None
        distance = 1 - inputs.pairs(0, 1)
        similar = inputs.target.to(distance.dtype)
        loss = 0.5 * (similar * distance.square() + (1 - similar) * F.relu(self.margin - distance).square())
        return {"contrastive": LossTerm(loss.sum(), len(loss))}
