"""Another loss, and a price on the numbers of a sparse vector that are not zero. arXiv:2004.05665, arXiv:2107.05720

Σ over the vocabulary of the mean weight squared: the work of a search grows with it, and it is cheapest when the same
few words are not in every vector. Queries and documents have prices of their own, which rise over the run as SPLADE's
do. Equals the inner loss at a price of 0. Shapes: B examples, C columns, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.base.schedule import Schedule
from encodery.embed.losses import LossInputs
from encodery.embed.losses._bases import WrapperLoss
from encodery.objectives import Count, LossTerm

QUERY = Schedule.parse("0 -> 3e-4 linear @ 30%; 3e-4")
DOCUMENT = Schedule.parse("0 -> 1e-4 linear @ 30%; 1e-4")


@dataclass(frozen=True, kw_only=True)
class FLOPS(WrapperLoss):
    """`loss`: what is learned besides; `query` and `document`: weights of the price of each side."""

    query_weight: Schedule = QUERY
    document_weight: Schedule = DOCUMENT

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        return {**self.loss.counts(columns, examples, target), "flops_query": 1, "flops_document": columns - 1}

    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        query, *documents = (vectors.float() for vectors in inputs.vectors)
        found = dict(self.loss.terms(inputs))
        found["flops_query"] = LossTerm(_price(query), 1, self.query_weight(inputs.progress))
        total = torch.stack([_price(some) for some in documents]).sum()
        found["flops_document"] = LossTerm(total, len(documents), self.document_weight(inputs.progress))
        for name, some in (("query_words", query), ("document_words", documents[0])):
            found[name] = LossTerm((some.detach() != 0).sum(), len(some), 0.0)
        return found


def _price(vectors: Tensor) -> Tensor:
    return vectors.abs().mean(0).square().sum()
