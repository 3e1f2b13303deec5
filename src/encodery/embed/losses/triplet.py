"""Triplet loss: the positive is to be nearer than each negative by a margin. arXiv:1503.03832, arXiv:1908.10084

Unlike `infonce` it uses an example's own negatives only, and is 0 where the margin is kept. Shapes: B examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.base.settings import check_interval
from encodery.embed.loss_inputs import LossInputs, vector_inputs
from encodery.embed.losses import Loss
from encodery.objectives import Count, LossTerm


@dataclass(frozen=True, kw_only=True)
class Triplet(Loss):
    """Use it for examples that contain good negatives. `distance`: 1 - cosine, or euclidean, for which the usual
    margin is 5.

        loss = {is = "triplet", margin = 0.2}
    """

    distance: Literal["cosine", "euclidean"] = "cosine"
    margin: float = 0.2

    def __post_init__(self) -> None:
        check_interval(self, "0 < x", "margin")

    @property
    def in_batch(self) -> bool:
        return False

    @property
    def column_range(self) -> tuple[int, int | None]:
        return 3, None

    @property
    def needs_vectors(self) -> bool:
        return self.distance == "euclidean"

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        return {"triplet": examples * (columns - 2)}

    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        near = self._distance(inputs, 1)
        far = torch.stack([self._distance(inputs, column) for column in range(2, inputs.num_columns)])
        violation = F.relu(near - far + self.margin)
        satisfied = LossTerm((violation.detach() == 0).sum(), violation.numel(), 0.0)
        return {"triplet": LossTerm(violation.sum(), violation.numel()), "satisfied": satisfied}

    def _distance(self, inputs: LossInputs, column: int) -> Tensor:
        if self.distance == "cosine":
            return 1 - inputs.pairs(0, column)
        vectors = vector_inputs(inputs).vectors
        return F.pairwise_distance(vectors[0].float(), vectors[column].float())
