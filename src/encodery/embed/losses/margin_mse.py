"""Margin-MSE: the squared error to a teacher's score differences between positive and negatives. arXiv:2010.02666

The teacher usually is a cross-encoder whose scores are in the data, so this distils a cross-encoder into a bi-encoder
(DSE, arXiv:1908.05161). Differences, not scores: the two models' scales need not have the same zero.
Shapes: B examples, C columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.base.settings import check_interval
from encodery.embed.loss_inputs import LossInputs, Similarity
from encodery.embed.losses._bases import DistillationLoss
from encodery.objectives import Count, LossTerm


@dataclass(frozen=True, kw_only=True)
class MarginMSE(DistillationLoss):
    """Use it for a cross-encoder's scores of a positive and its negatives; it is the default for them. `scale`
    multiplies the similarities; cosines need one to reach the range of a teacher's logits.

        loss = {is = "margin_mse", similarity = "cosine", scale = 20.0}
    """

    similarity: Similarity = "dot"
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_interval(self, "0 < x", "scale")

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        return {"margin_mse": examples * (columns - 2)}

    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        assert inputs.target is not None
        columns = range(1, inputs.num_columns)
        scores = self.scale * torch.stack([inputs.pairs(0, column, self.similarity) for column in columns], dim=1)
        teacher = inputs.target.to(scores.dtype)
        error = (scores[:, :1] - scores[:, 1:] - (teacher[:, :1] - teacher[:, 1:])).square()
        return {"margin_mse": LossTerm(error.sum(), error.numel())}
