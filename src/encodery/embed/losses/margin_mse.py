"""Margin-MSE: a teacher's differences between the right answer and the wrong ones. arXiv:2010.02666

The teacher is as a rule a cross-encoder whose scores stand in the data, so this distils a cross-encoder into an encoder
of single texts (DSE, arXiv:1908.05161). Differences, not scores: the two models' scales need not have the same zero.
Shapes: B examples, C columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.embed.losses import LossInputs, Similarity
from encodery.embed.losses._bases import DistillationLoss
from encodery.objectives import Count, LossTerm


@dataclass(frozen=True, kw_only=True)
class MarginMSE(DistillationLoss):
    """`scale` multiplies the similarities; cosines need one to reach a teacher's logits."""

    similarity: Similarity = "dot"
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise SettingsError(f"scale = {self.scale}: must be positive.")

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        return {"margin_mse": examples * (columns - 2)}

    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        assert inputs.target is not None
        columns = range(1, len(inputs.vectors))
        scores = self.scale * torch.stack([inputs.pairs(0, column, self.similarity) for column in columns], dim=1)
        teacher = inputs.target.to(scores.dtype)
        error = (scores[:, :1] - scores[:, 1:] - (teacher[:, :1] - teacher[:, 1:])).square()
        return {"margin_mse": LossTerm(error.sum(), error.numel())}
