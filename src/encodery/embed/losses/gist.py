"""GISTEmbed: InfoNCE whose wrong answers a guide model has looked through. arXiv:2402.16829

A candidate that the guide finds nearer to the anchor than its own partner is taken out: it is likely right as well.
Differs from `infonce` by that, and by always setting anchors against anchors and partners against partners.
Shapes: B examples, C columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.embed.losses import Loss, LossInputs
from encodery.embed.losses._masks import diagonal, same_text, shares_text
from encodery.objectives import Count, LossTerm


@dataclass(frozen=True, kw_only=True)
class GIST(Loss):
    """`margin`: how much less than the partner's similarity a candidate's must be for the guide; `relative`: as a share
    of the partner's, which NV-Retriever (arXiv:2407.15831) found better for mining."""

    temperature: float = 0.05
    margin: float = 0.0
    relative: bool = False

    def __post_init__(self) -> None:
        if not self.temperature > 0 or self.margin < 0:
            raise SettingsError(
                f"temperature = {self.temperature}, margin = {self.margin}: must be positive, and not negative."
            )

    @property
    def needs_guide(self) -> bool:
        return True

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        return {"gist": examples}

    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        assert inputs.guide is not None
        partner = inputs.guide.pairs(0, 1)[:, None]
        limit = partner - (partner.abs() * self.margin if self.relative else self.margin)
        own, size = diagonal(inputs), inputs.batch_size
        hidden = [(shares_text(inputs) | same_text(inputs, 0, 1) | (inputs.guide.cross(0, 1) > limit)) & ~own]
        hidden += [shares_text(inputs) | (inputs.guide.cross(side, side) > limit) for side in (0, 1)]
        places = [(0, 1), (0, 0), (1, 1)]
        for column in range(2, len(inputs.vectors)):
            places.append((0, column))
            hidden.append(
                same_text(inputs, 0, column) | same_text(inputs, 1, column) | (inputs.guide.cross(0, column) > limit)
            )
        scores = torch.cat(
            [
                (inputs.cross(*place) / self.temperature).masked_fill(mask, -torch.inf)
                for place, mask in zip(places, hidden, strict=True)
            ],
            dim=1,
        )
        right = scores[:, :size].diagonal()
        left_out = torch.stack([mask.sum() for mask in hidden]).sum()
        taken_out = LossTerm(left_out, size * size * len(hidden), 0.0)
        return {"gist": LossTerm((scores.logsumexp(1) - right).sum(), size), "taken_out": taken_out}
