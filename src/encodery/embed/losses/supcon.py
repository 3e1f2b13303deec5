"""Supervised contrast: texts of one class draw together against all others of the batch. arXiv:2004.11362

For single texts with a class label. A text whose class stands alone in the batch has nothing to be drawn to and is not
counted. Shapes: B texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.embed.losses import Loss, LossInputs, TargetKind
from encodery.objectives import Count, LossTerm


@dataclass(frozen=True, kw_only=True)
class SupCon(Loss):
    """`temperature` divides the cosines."""

    temperature: float = 0.1

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise SettingsError(f"temperature = {self.temperature}: must be positive.")

    @property
    def target_kind(self) -> TargetKind:
        return "label"

    @property
    def column_range(self) -> tuple[int, int | None]:
        return 1, 1

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        assert target is not None
        return {"supcon": (_alike(target).sum(1) > 0).sum()}

    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        assert inputs.target is not None
        alike = _alike(inputs.target)
        diagonal = torch.eye(len(alike), dtype=torch.bool, device=alike.device)
        scores = (inputs.cross(0, 0) / self.temperature).masked_fill(diagonal, -torch.inf)
        partners = alike.sum(1)
        log_p = (scores - scores.logsumexp(1, keepdim=True)).masked_fill(~alike, 0.0)
        each = -log_p.sum(1) / partners.clamp(min=1)
        return {"supcon": LossTerm(each.sum(), (partners > 0).sum())}


def _alike(target: Tensor) -> Tensor:
    """(B, B) bool: another text of the same class."""
    alike = target[:, None] == target[None, :]
    return alike & ~torch.eye(len(target), dtype=torch.bool, device=target.device)
