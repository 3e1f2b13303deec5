"""InfoNCE: each anchor must find its partner among the partners and negatives of the whole batch. arXiv:1807.03748

The loss of SimCSE (arXiv:2104.08821: both columns hold the same sentence, dropout tells them apart) and of most
retrievers. `symmetric` also asks the other way round; with `same_side` anchors compete with anchors as well, and with
both set it is GTE's loss, one softmax over all four kinds (arXiv:2308.03281). A text that occurs twice is never its own
wrong answer. Shapes: B examples, C columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.embed.losses import Loss, LossInputs, Similarity
from encodery.embed.losses._masks import diagonal, same_text, shares_text
from encodery.objectives import Count, LossTerm


@dataclass(frozen=True, kw_only=True)
class InfoNCE(Loss):
    """`temperature` divides the similarities. `margin` is taken from the right pair's similarity, as in LaBSE and
    LEALLA (arXiv:2302.08387); 0 for none."""

    temperature: float = 0.05
    similarity: Similarity = "cosine"
    symmetric: bool = False
    same_role: bool = False
    margin: float = 0.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise SettingsError(f"temperature = {self.temperature}: must be positive.")

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        return {"infonce": examples}

    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        size = inputs.batch_size
        forward = self._forward(inputs)
        right = forward.diagonal()
        spaces = [forward]
        if self.same_role:
            spaces.append(self._scaled(inputs, 0, 0, shares_text(inputs)))
        if self.symmetric:
            wrong = (shares_text(inputs) | same_text(inputs, 1, 0)) & ~diagonal(inputs)
            back = self._scaled(inputs, 1, 0, wrong)
            spaces.append(back - torch.diag(back.new_full((size,), self.margin / self.temperature)))
        if self.symmetric and self.same_role:
            spaces += [
                self._scaled(inputs, 1, column, shares_text(inputs) | same_text(inputs, 1, column))
                for column in range(1, len(inputs.vectors))
            ]
        if self.symmetric and not self.same_role:
            log_z = (forward.logsumexp(1) + spaces[1].logsumexp(1)) / 2
        else:
            log_z = torch.cat(spaces, dim=1).logsumexp(1)
        found = (right.detach() >= forward.detach().amax(1)).sum()
        return {"infonce": LossTerm((log_z - right).sum(), size), "accuracy": LossTerm(found, size, 0.0)}

    def _forward(self, given: LossInputs) -> Tensor:
        """(B, (C - 1) · B) each anchor with the partners, then with each column of negatives."""
        partners = self._scaled(given, 0, 1, (shares_text(given) | same_text(given, 0, 1)) & ~diagonal(given))
        partners = partners - torch.diag(partners.new_full((len(partners),), self.margin / self.temperature))
        wrong = [
            self._scaled(given, 0, column, same_text(given, 1, column) | same_text(given, 0, column))
            for column in range(2, len(given.vectors))
        ]
        return torch.cat([partners, *wrong], dim=1)

    def _scaled(self, given: LossInputs, one: int, other: int, hidden: Tensor) -> Tensor:
        scores = given.cross(one, other, self.similarity) / self.temperature
        return scores.masked_fill(hidden, -torch.inf)
