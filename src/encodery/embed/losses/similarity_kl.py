"""A guide model's similarities within the batch, by Kullback-Leibler divergence. arXiv:2302.08387 (LEALLA)

Needs texts only, and no vectors of equal width: what is copied is which texts are near which, LEALLA's distillation of
similarity scores; so a thin student can learn from a wide teacher. Shapes: B examples, C columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.embed.losses import Loss, LossInputs
from encodery.objectives import Count, LossTerm


@dataclass(frozen=True, kw_only=True)
class SimilarityKL(Loss):
    """`temperature` divides both models' cosines."""

    temperature: float = 0.05

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise SettingsError(f"temperature = {self.temperature}: must be positive.")

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
        ours, theirs = self._log_shares(inputs), self._log_shares(inputs.guide)
        size = len(ours)
        return {"similarity_kl": LossTerm(F.kl_div(ours, theirs, reduction="sum", log_target=True), size)}

    def _log_shares(self, given: LossInputs) -> Tensor:
        """(CB, CB - 1) each text's log-softmax over the others."""
        columns = range(len(given.vectors))
        scores = torch.cat([torch.cat([given.cross(a, b) for b in columns], dim=1) for a in columns])
        size = len(scores)
        others = ~torch.eye(size, dtype=torch.bool, device=scores.device)
        return F.log_softmax(scores[others].view(size, size - 1) / self.temperature, dim=1)
