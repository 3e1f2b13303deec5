"""Kullback-Leibler divergence from a teacher's distribution over each example's texts. arXiv:2010.11386

Like `margin_mse` for scores in the data, but weighted by what the teacher finds probable.
Shapes: B examples, C columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.base.settings import check_interval
from encodery.embed.loss_inputs import LossInputs, Similarity
from encodery.embed.losses._bases import DistillationLoss
from encodery.objectives import Count, LossTerm


@dataclass(frozen=True, kw_only=True)
class DistillKL(DistillationLoss):
    """Use it for a cross-encoder's scores of a positive and several negatives.

    `temperature` divides the similarities, `teacher_temperature` the teacher's scores. The loss is multiplied by
    temperature², so that the size of the gradient does not depend on it.

        loss = {is = "distill_kl", teacher_temperature = 2.0}
    """

    similarity: Similarity = "dot"
    temperature: float = 1.0
    teacher_temperature: float = 1.0

    def __post_init__(self) -> None:
        check_interval(self, "0 < x", "temperature", "teacher_temperature")

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        return {"distill_kl": examples}

    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        assert inputs.target is not None
        columns = range(1, inputs.num_columns)
        scores = torch.stack([inputs.pairs(0, column, self.similarity) for column in columns], dim=1)
        student = F.log_softmax(scores / self.temperature, dim=1)
        teacher = F.log_softmax(inputs.target.to(scores.dtype) / self.teacher_temperature, dim=1)
        divergence = F.kl_div(student, teacher, reduction="sum", log_target=True)
        return {"distill_kl": LossTerm(divergence * self.temperature**2, len(scores))}
