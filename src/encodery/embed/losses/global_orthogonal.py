"""Another loss, and global orthogonal regularisation (GOR), which spreads embeddings over the sphere. arXiv:1708.06320

Embeddings of different texts are to be as orthogonal as random ones: mean similarity 0, second moment at most 1 / K.
Equals the inner loss at `weight` = 0. Shapes: B examples, C columns, K dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.base.settings import check_at_least
from encodery.embed.loss_inputs import LossInputs
from encodery.embed.losses._bases import WrapperLoss
from encodery.objectives import Count, LossTerm


@dataclass(frozen=True, kw_only=True)
class GlobalOrthogonal(WrapperLoss):
    """Use it around a loss whose embeddings use only a part of the sphere. `weight`: of the regulariser.

    loss = {is = "global_orthogonal", loss = "triplet", weight = 1.0}
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        check_at_least(self, 0, "weight")

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        return {**self.loss.counts(columns, examples, target), "global_orthogonal": columns}

    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        penalties = []
        for column in range(inputs.num_columns):
            cosines = inputs.cross(column, column)
            size = len(cosines)
            others = cosines * ~torch.eye(size, dtype=torch.bool, device=cosines.device)
            pairs = max(size * (size - 1), 1)
            moment = torch.relu(others.square().sum() / pairs - 1 / inputs.dim)
            penalties.append((others.sum() / pairs).square() + moment)
        penalty = LossTerm(torch.stack(penalties).sum(), len(penalties), self.weight)
        return {**self.loss.terms(inputs), "global_orthogonal": penalty}
