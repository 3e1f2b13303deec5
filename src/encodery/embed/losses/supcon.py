"""Supervised contrastive loss: texts of one class attract against all others of the batch. arXiv:2004.11362

For single texts with a class label. A text that is the only one of its class in the batch has no positive and is not
counted. Shapes: B texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.base.settings import check_interval
from encodery.embed.loss_inputs import LossInputs
from encodery.embed.losses import Loss, TargetKind
from encodery.objectives import Count, LossTerm


@dataclass(frozen=True, kw_only=True)
class SupCon(Loss):
    """Use it for texts with classes; it is the default for them. `temperature` divides the cosines.

    loss = {is = "supcon", temperature = 0.1}
    """

    temperature: float = 0.1

    def __post_init__(self) -> None:
        check_interval(self, "0 < x", "temperature")

    @property
    def target_kind(self) -> TargetKind:
        return "label"

    @property
    def column_range(self) -> tuple[int, int | None]:
        return 1, 1

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        assert target is not None
        return {"supcon": (_same_class(target).sum(1) > 0).sum()}

    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        assert inputs.target is not None
        positive = _same_class(inputs.target)
        diagonal = torch.eye(len(positive), dtype=torch.bool, device=positive.device)
        scores = (inputs.cross(0, 0) / self.temperature).masked_fill(diagonal, -torch.inf)
        num_positives = positive.sum(1)
        log_p = (scores - scores.logsumexp(1, keepdim=True)).masked_fill(~positive, 0.0)
        loss = -log_p.sum(1) / num_positives.clamp(min=1)
        return {"supcon": LossTerm(loss.sum(), (num_positives > 0).sum())}


def _same_class(target: Tensor) -> Tensor:
    """(B, B) bool: another text of the same class."""
    same = target[:, None] == target[None, :]
    return same & ~torch.eye(len(target), dtype=torch.bool, device=target.device)
