"""A teacher's distribution over each example's answers, by Kullback-Leibler divergence. arXiv:2010.11386

Like `margin_mse` for scores in the data, but weighing what the teacher finds probable. Shapes: B examples, C columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.embed.losses import LossInputs, Similarity
from encodery.embed.losses._bases import DistillationLoss
from encodery.objectives import Count, LossTerm


@dataclass(frozen=True, kw_only=True)
class DistillKL(DistillationLoss):
    """`temperature` divides the similarities, `teacher_temperature` the teacher's scores. The loss is multiplied by
    temperature², which keeps the gradient's size."""

    similarity: Similarity = "dot"
    temperature: float = 1.0
    teacher_temperature: float = 1.0

    def __post_init__(self) -> None:
        for name in ("temperature", "teacher_temperature"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name} = {getattr(self, name)}: must be positive.")

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        return {"distill_kl": examples}

    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        assert inputs.target is not None
        columns = range(1, len(inputs.vectors))
        scores = torch.stack([inputs.pairs(0, column, self.similarity) for column in columns], dim=1)
        ours = F.log_softmax(scores / self.temperature, dim=1)
        theirs = F.log_softmax(inputs.target.to(scores.dtype) / self.teacher_temperature, dim=1)
        apart = F.kl_div(ours, theirs, reduction="sum", log_target=True)
        return {"distill_kl": LossTerm(apart * self.temperature**2, len(scores))}
