"""Another loss, and a regulariser that spreads unrelated vectors over the sphere. arXiv:1708.06320 (GOR)

Vectors of different texts shall be as orthogonal as random ones: mean similarity 0, second moment at most 1 / K. Equals
the inner loss at `weight` = 0. Shapes: B examples, C columns, K width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.embed.losses import LossInputs
from encodery.embed.losses._bases import WrapperLoss
from encodery.objectives import Count, LossTerm


@dataclass(frozen=True, kw_only=True)
class GlobalOrthogonal(WrapperLoss):
    """`loss`: what is learned besides; `weight` of the regulariser."""

    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise SettingsError(f"weight = {self.weight}: must not be negative.")

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        return {**self.loss.counts(columns, examples, target), "global_orthogonal": columns}

    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        found = []
        for column in range(len(inputs.vectors)):
            cosines = inputs.cross(column, column)
            size = len(cosines)
            others = cosines * ~torch.eye(size, dtype=torch.bool, device=cosines.device)
            pairs = max(size * (size - 1), 1)
            moment = torch.relu(others.square().sum() / pairs - 1 / inputs.dim)
            found.append((others.sum() / pairs).square() + moment)
        return {
            **self.loss.terms(inputs),
            "global_orthogonal": LossTerm(torch.stack(found).sum(), len(found), self.weight),
        }
