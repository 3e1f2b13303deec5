"""Triplet loss: the partner must be nearer than each negative, by a margin. arXiv:1503.03832, arXiv:1908.10084

Unlike `infonce` it looks at an example's own negatives only, and stops where the margin is kept. Shapes: B examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.embed.losses import Loss, LossInputs
from encodery.objectives import Count, LossTerm


@dataclass(frozen=True, kw_only=True)
class Triplet(Loss):
    """`distance`: 1 - cosine, or euclidean, for which the usual margin is 5."""

    distance: Literal["cosine", "euclidean"] = "cosine"
    margin: float = 0.2

    def __post_init__(self) -> None:
        if not self.margin > 0:
            raise SettingsError(f"margin = {self.margin}: must be positive.")

    @property
    def in_batch(self) -> bool:
        return False

    @property
    def column_range(self) -> tuple[int, int | None]:
        return 3, None

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        return {"triplet": examples * (columns - 2)}

    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        near = self._distance(inputs, 1)
        far = torch.stack([self._distance(inputs, column) for column in range(2, len(inputs.vectors))])
        missing = F.relu(near - far + self.margin)
        kept = LossTerm((missing.detach() == 0).sum(), missing.numel(), 0.0)
        return {"triplet": LossTerm(missing.sum(), missing.numel()), "kept": kept}

    def _distance(self, given: LossInputs, column: int) -> Tensor:
        if self.distance == "cosine":
            return 1 - given.pairs(0, column)
        return F.pairwise_distance(given.vectors[0].float(), given.vectors[column].float())
