"""CoSENT: of two pairs, the one labelled more alike shall have the higher cosine. doi:10.1109/TASLP.2024.3402087

Only the order of the labels counts, whatever their scale. Shapes: B pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.embed.losses import Given, Similarity
from encodery.embed.losses._kinds import Scored
from encodery.embed.losses._rank import disorder
from encodery.objectives import Count, Term


@dataclass(frozen=True, kw_only=True)
class CoSENT(Scored):
    """`temperature` divides the similarities."""

    temperature: float = 0.05
    similarity: Similarity = "cosine"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise SettingsError(f"temperature = {self.temperature}: must be positive.")

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        return {"cosent": 1}

    def terms(self, given: Given) -> Mapping[str, Term]:
        assert given.target is not None
        scores = given.pairs(0, 1, self.similarity) / self.temperature
        return {"cosent": Term(disorder(scores, given.target), 1)}
