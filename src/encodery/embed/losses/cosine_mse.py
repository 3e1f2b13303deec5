"""The cosine of a pair is to equal its score: squared error. arXiv:1908.10084

Unlike `cosent` the scale of the scores matters; they are brought to 0 … 1 when the data is read. Shapes: B pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from encodery.embed.losses import Given
from encodery.embed.losses._kinds import Scored
from encodery.objectives import Count, Term


@dataclass(frozen=True, kw_only=True)
class CosineMSE(Scored):
    """Has no settings."""

    @property
    def together(self) -> bool:
        return False

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        return {"cosine_mse": examples}

    def terms(self, given: Given) -> Mapping[str, Term]:
        assert given.target is not None
        cosine = given.pairs(0, 1)
        error = (cosine - given.target.to(cosine.dtype)).square()
        return {"cosine_mse": Term(error.sum(), len(error))}
