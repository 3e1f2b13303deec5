"""Contrastive loss: alike pairs are drawn together, others pushed apart up to a margin. doi:10.1109/CVPR.2006.100

For pairs labelled 1 or 0; labels between weigh both sides. Shapes: B pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.embed.losses import LossInputs
from encodery.embed.losses._bases import ScoreLoss
from encodery.objectives import Count, LossTerm


@dataclass(frozen=True, kw_only=True)
class Contrastive(ScoreLoss):
    """`margin`: the distance 1 - cosine that other pairs shall keep."""

    margin: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.margin <= 2:
            raise SettingsError(f"margin = {self.margin}: must lie in 0 < margin <= 2.")

    @property
    def in_batch(self) -> bool:
        return False

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        return {"contrastive": examples}

    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        assert inputs.target is not None
        distance = 1 - inputs.pairs(0, 1)
        alike = inputs.target.to(distance.dtype)
        each = 0.5 * (alike * distance.square() + (1 - alike) * F.relu(self.margin - distance).square())
        return {"contrastive": LossTerm(each.sum(), len(each))}
