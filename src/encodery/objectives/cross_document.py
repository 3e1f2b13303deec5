"""Masked language modelling across documents: the masked tokens of a text may be read from related ones.

Cross-document language modelling (CDLM, arXiv:2101.00406): a sequence has several related documents with a mark between
them, here [SEP] (feed `related_documents`), and every token attends to all of them. Differs from `mlm`: the other
documents are there. Differs from the paper: which attention is far-reaching is the model's (`model.mask`), while there
the masked tokens attend to all and the others nearby. Shapes: M predicted tokens.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from encodery.base.settings import check_at_least
from encodery.corrupt import Vocabulary
from encodery.model import count
from encodery.model.network import Model
from encodery.model.ops.masked_cross_entropy.chunked import masked_cross_entropy
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
from encodery.objectives import LossTerm, ObjectiveModule
from encodery.objectives._masked import MaskedObjective, MaskedObjectiveModule
from encodery.tokens.feeds import DataFeed
from encodery.tokens.feeds.related_documents import RelatedDocuments


@dataclass(frozen=True, kw_only=True)
class CrossDocument(MaskedObjective):
    """Use it to pre-train an encoder that reads several texts together, such as a question and its sources.
    `documents`: how many a sequence has. It needs tokens that were encoded with --group-by. Held-out text is judged by
    masked tokens of single texts, as for `mlm`, and in related ones: `related_loss`, in nats, and `related_accuracy`.

        objective.is=cross_document objective.documents=3
    """

    documents: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 2, "documents")

    @property
    def feed(self) -> DataFeed:
        return RelatedDocuments(documents=self.documents)

    def build(self, model: ModelSettings, vocabulary: Vocabulary) -> ObjectiveModule:
        return _CrossDocumentModule(self, model, vocabulary)


class _CrossDocumentModule(MaskedObjectiveModule):
    def evaluate_fed(self, model: Model, batch: Batch, generator: torch.Generator) -> dict[str, LossTerm]:
        """See `ObjectiveModule`: the rate of training, all masked tokens being [MASK], as in other held-out text."""
        trained = self.settings.corruption
        corruption = dataclasses.replace(trained, mask=1.0, random=0.0, keep=0.0, predict_rate=None)
        vocabulary = next(iter(self.vocabularies.values())).to(batch.ids.device)
        masked = corruption.apply(batch.ids, batch.cu_seqlens, vocabulary, generator, 1.0)
        hidden = self.encode(model, batch.with_ids(masked.ids)).hidden
        weight, bias = model.mlm_head.decoder(model.encoder)
        features = model.mlm_head.features(hidden[masked.masked_positions])
        result, n = masked_cross_entropy(features, weight, bias, masked.labels), (masked.labels >= 0).sum()
        return {
            "related_loss": LossTerm(result.nll.double().sum(), n, weight=0.0),
            "related_accuracy": LossTerm(result.correct.double().sum(), n, weight=0.0),
        }

    def pass_flops(self, model: ModelSettings, length: float, predicted: float, masked: float) -> float:
        return count.flops_per_token(model, length, predicted)
