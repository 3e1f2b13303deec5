"""GISTEmbed: InfoNCE without the negatives that a guide model finds too similar. arXiv:2402.16829

A candidate that the guide finds nearer to the anchor than the anchor's own positive is left out: it is probably a false
negative. Differs from `infonce` by that, and by always comparing anchors with anchors and positives with positives too.
Shapes: B examples, C columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.base.settings import check_at_least, check_interval
from encodery.embed.loss_inputs import LossInputs
from encodery.embed.losses import Loss
from encodery.embed.losses._masks import diagonal, same_text, shares_text
from encodery.objectives import Count, LossTerm


@dataclass(frozen=True, kw_only=True)
class GIST(Loss):
    """Use it where a good embedding model is at hand and the batch holds many false negatives.

    `margin`: how far below the positive's similarity a candidate's must be for the guide; with `relative` as a fraction
    of the positive's, which NV-Retriever (arXiv:2407.15831) found better for mining.

        guide = "all-MiniLM-L6-v2"
        loss = {is = "gist", margin = 0.05, relative = true}
    """

    temperature: float = 0.05
    margin: float = 0.0
    relative: bool = False

    def __post_init__(self) -> None:
        check_interval(self, "0 < x", "temperature")
        check_at_least(self, 0, "margin")

    @property
    def needs_guide(self) -> bool:
        return True

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        return {"gist": examples}

    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        assert inputs.guide is not None
        guide, size = inputs.guide, inputs.batch_size
        positive = guide.pairs(0, 1)[:, None]
        limit = positive - (positive.abs() * self.margin if self.relative else self.margin)
        related = shares_text(inputs)
        columns = [(0, 1), (0, 0), (1, 1)]
        masks = [(related | same_text(inputs, 0, 1) | (guide.cross(0, 1) > limit)) & ~diagonal(inputs)]
        masks += [related | (guide.cross(column, column) > limit) for column in (0, 1)]
        for column in range(2, inputs.num_columns):
            columns.append((0, column))
            masks.append(same_text(inputs, 0, column) | same_text(inputs, 1, column) | (guide.cross(0, column) > limit))
        scores = torch.cat(
            [
                (inputs.cross(*pair) / self.temperature).masked_fill(mask, -torch.inf)
                for pair, mask in zip(columns, masks, strict=True)
            ],
            dim=1,
        )
        positives = scores[:, :size].diagonal()
        filtered = LossTerm(torch.stack([mask.sum() for mask in masks]).sum(), size * size * len(masks), 0.0)
        return {"gist": LossTerm((scores.logsumexp(1) - positives).sum(), size), "filtered": filtered}
