"""Another loss, and FLOPS regularisation, which makes embeddings sparse. arXiv:2004.05665, arXiv:2107.05720

The regulariser is Σ over the vocabulary of the squared mean weight. The work of a search grows with it, and it is
lowest when the non-zero terms are spread over the vocabulary. Queries and documents have separate weights, which rise
over the run as in SPLADE. Equals the inner loss at weight 0. Shapes: B examples, C columns, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.base.schedule import Schedule
from encodery.embed.loss_inputs import LossInputs
from encodery.embed.losses._bases import WrapperLoss
from encodery.objectives import Count, LossTerm

QUERY_WEIGHT = Schedule.parse("0 -> 3e-4 linear @ 30%; 3e-4")
DOCUMENT_WEIGHT = Schedule.parse("0 -> 1e-4 linear @ 30%; 1e-4")


@dataclass(frozen=True, kw_only=True)
class FLOPS(WrapperLoss):
    """Use it around a loss for `objective = "sparse"`.

    `query_weight` and `document_weight`: weights of the regulariser.

    loss = {is = "flops", loss = {is = "infonce", similarity = "dot", temperature = 1.0}}
    """

    query_weight: Schedule = QUERY_WEIGHT
    document_weight: Schedule = DOCUMENT_WEIGHT

    @property
    def needs_vectors(self) -> bool:
        return True

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        return {**self.loss.counts(columns, examples, target), "flops_query": 1, "flops_document": columns - 1}

    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        query, *documents = (vectors.float() for vectors in inputs.vectors)
        terms = dict(self.loss.terms(inputs))
        terms["flops_query"] = LossTerm(_flops(query), 1, self.query_weight(inputs.progress))
        total = torch.stack([_flops(vectors) for vectors in documents]).sum()
        terms["flops_document"] = LossTerm(total, len(documents), self.document_weight(inputs.progress))
        for name, vectors in (("query_terms", query), ("document_terms", documents[0])):
            terms[name] = LossTerm((vectors.detach() != 0).sum(), len(vectors), 0.0)
        return terms


def _flops(vectors: Tensor) -> Tensor:
    return vectors.abs().mean(0).square().sum()
