"""InfoNCE: each anchor is to find its positive among the positives and negatives of the whole batch. arXiv:1807.03748

Also known as multiple-negatives ranking loss; the loss of SimCSE (arXiv:2104.08821: both texts are the same sentence,
dropout makes them differ) and of most retrievers. With `symmetric` positives are to find their anchors too; with
`same_role` anchors also compete with anchors; with both it is GTE's loss, one softmax over all four kinds
(arXiv:2308.03281). A text that occurs twice in a batch is never a negative of itself. Shapes: B examples, C columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.base.settings import check_interval
from encodery.embed.loss_inputs import LossInputs, Similarity
from encodery.embed.losses import Loss
from encodery.embed.losses._masks import diagonal, same_text, shares_text
from encodery.objectives import Count, LossTerm


@dataclass(frozen=True, kw_only=True)
class InfoNCE(Loss):
    """Use it for pairs, or tuples with negatives; it is the default for them.

    `temperature` divides the similarities. `margin` is subtracted from the positive's similarity, as in LaBSE and
    LEALLA (arXiv:2302.08387); 0 for none.

        loss = {is = "infonce", temperature = 0.02, symmetric = true}
    """

    temperature: float = 0.05
    similarity: Similarity = "cosine"
    symmetric: bool = False
    same_role: bool = False
    margin: float = 0.0

    def __post_init__(self) -> None:
        check_interval(self, "0 < x", "temperature")

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        return {"infonce": examples}

    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        size, related = inputs.batch_size, shares_text(inputs)
        forward = self._forward(inputs)
        positives = forward.diagonal()
        logits = [forward]
        if self.same_role:
            logits.append(self._logits(inputs, 0, 0, related))
        if self.symmetric:
            backward = self._logits(inputs, 1, 0, (related | same_text(inputs, 1, 0)) & ~diagonal(inputs))
            logits.append(backward - torch.diag(backward.new_full((size,), self.margin / self.temperature)))
        if self.symmetric and self.same_role:
            logits += [
                self._logits(inputs, 1, column, related | same_text(inputs, 1, column))
                for column in range(1, inputs.num_columns)
            ]
        if self.symmetric and not self.same_role:
            log_z = (forward.logsumexp(1) + logits[1].logsumexp(1)) / 2
        else:
            log_z = torch.cat(logits, dim=1).logsumexp(1)
        correct = (positives.detach() >= forward.detach().amax(1)).sum()
        return {"infonce": LossTerm((log_z - positives).sum(), size), "accuracy": LossTerm(correct, size, 0.0)}

    def _forward(self, inputs: LossInputs) -> Tensor:
        """(B, (C - 1) · B) logits of each anchor with the positives, then with each column of negatives."""
        masked = (shares_text(inputs) | same_text(inputs, 0, 1)) & ~diagonal(inputs)
        positives = self._logits(inputs, 0, 1, masked)
        positives = positives - torch.diag(positives.new_full((len(positives),), self.margin / self.temperature))
        negatives = [
            self._logits(inputs, 0, column, same_text(inputs, 1, column) | same_text(inputs, 0, column))
            for column in range(2, inputs.num_columns)
        ]
        return torch.cat([positives, *negatives], dim=1)

    def _logits(self, inputs: LossInputs, first: int, second: int, masked: Tensor) -> Tensor:
        scores = inputs.cross(first, second, self.similarity) / self.temperature
        return scores.masked_fill(masked, -torch.inf)
