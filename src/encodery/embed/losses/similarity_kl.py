"""Kullback-Leibler divergence from a guide's similarities within the batch. arXiv:2302.08387 (LEALLA)

LEALLA's distillation of similarity scores. It needs texts only, and no embeddings of equal dimension, since only the
relative similarities are learned; so a narrow student can learn from a wide teacher. Shapes: B examples, C columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.base.settings import check_interval
from encodery.embed.loss_inputs import LossInputs
from encodery.embed.losses import Loss
from encodery.objectives import Count, LossTerm


@dataclass(frozen=True, kw_only=True)
class SimilarityKL(Loss):
    """Use it to distil an embedding model into a smaller one from texts alone.

    `temperature` divides the cosines of both models.

    guide = "all-MiniLM-L6-v2"
    loss = "similarity_kl"
    """

    temperature: float = 0.05

    def __post_init__(self) -> None:
        check_interval(self, "0 < x", "temperature")

    @property
    def needs_guide(self) -> bool:
        return True

    @property
    def column_range(self) -> tuple[int, int | None]:
        return 1, None

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        return {"similarity_kl": columns * examples}

    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        assert inputs.guide is not None
        student, teacher = self._log_probabilities(inputs), self._log_probabilities(inputs.guide)
        divergence = F.kl_div(student, teacher, reduction="sum", log_target=True)
        return {"similarity_kl": LossTerm(divergence, len(student))}

    def _log_probabilities(self, inputs: LossInputs) -> Tensor:
        """(CB, CB - 1) each text's log-softmax over the similarities with the others."""
        columns = range(inputs.num_columns)
        scores = torch.cat([torch.cat([inputs.cross(a, b) for b in columns], dim=1) for a in columns])
        size = len(scores)
        others = ~torch.eye(size, dtype=torch.bool, device=scores.device)
        return F.log_softmax(scores[others].view(size, size - 1) / self.temperature, dim=1)
