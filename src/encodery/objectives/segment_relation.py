"""Masked language modelling of pairs of segments, and whether the second segment belongs after the first.

Next-sentence prediction (BERT, arXiv:1810.04805), sentence-order prediction (ALBERT, arXiv:1909.11942) or the relation
of two documents (LinkBERT, arXiv:2203.15827); the feed `segment_pairs` makes the pairs. Shapes: T tokens, B sequences.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.base.settings import check_at_least
from encodery.corrupt import Vocabulary
from encodery.model import count
from encodery.model.extra_heads.segment_relation import SegmentRelationHead
from encodery.model.network import Model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch, Output
from encodery.objectives import Count, LossTerm, ObjectiveModule
from encodery.objectives._masked import MaskedObjective, MaskedObjectiveModule
from encodery.tokens.feeds import DataFeed
from encodery.tokens.feeds.segment_pairs import Relation, SegmentPairs, join_pair

HEAD = name_of(SegmentRelationHead)


@dataclass(frozen=True, kw_only=True)
class SegmentRelation(MaskedObjective):
    """Use it for the original training of BERT (`relation` = "next") or ALBERT ("order"), or with "linked" for related
    documents, whose head needs relations = 3. `weight`: that of the relation, beside 1 of the masked tokens. Further
    terms: `relation`, in nats, and `relation_accuracy`.

        objective.is=segment_relation model.extra_heads=["segment_relation"] model.type_vocab_size=2
    """

    relation: Relation = "next"
    weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, "weight")
        if self.corruption.predict_rate is not None:
            raise SettingsError("objective.corruption.predict_rate: is not supported with pairs; leave it out.")

    @property
    def feed(self) -> DataFeed:
        return SegmentPairs(relation=self.relation)

    def incompatibility(self, model: ModelSettings) -> str | None:
        """See `Objective`: the model has the head of the relation."""
        head = SegmentRelationHead(relations=3 if self.relation == "linked" else 2)
        known = model.extra_heads == (head,) and model.head is not None
        needed = f'"{HEAD}"' if head.relations == 2 else f'{{is="{HEAD}", relations=3}}'
        return super().incompatibility(model) or (None if known else f"set model.extra_heads=[{needed}].")

    def build(self, model: ModelSettings, vocabulary: Vocabulary) -> ObjectiveModule:
        return _SegmentRelationModule(self, model, vocabulary)


class _SegmentRelationModule(MaskedObjectiveModule):
    def __init__(self, settings: SegmentRelation, model: ModelSettings, vocabulary: Vocabulary) -> None:
        super().__init__(settings, model, vocabulary)
        self.relation, self.weight = settings.relation, settings.weight

    def prepare(self, batch: Batch, generator: torch.Generator, progress: float) -> Batch:
        """Mask tokens of pairs; a batch of whole texts, which no feed has made, is divided into pairs first."""
        pairs = batch if "relation" in batch.extra else pairs_of(batch, self.relation, generator)
        return super().prepare(pairs, generator, progress)

    def counts(self, batch: Batch) -> dict[str, Count]:
        return super().counts(batch) | {"relation": len(batch)}

    def loss(self, model: Model, output: Output, batch: Batch) -> dict[str, LossTerm]:
        """Return the terms of the masked tokens and of the relation."""
        return super().loss(model, output, batch) | self._relation(model, output, batch)

    def evaluate(self, model: Model, batch: Batch, generator: torch.Generator) -> dict[str, LossTerm]:
        """See `ObjectiveModule`: masked tokens in whole texts, as for `mlm`, and the relation in pairs made of these
        texts without masks."""
        terms = super().evaluate(model, batch, generator)
        if self.relation == "linked":  # A text alone does not tell which others are related: see `evaluate_fed`.
            return terms
        ids = batch.ids.index_copy(0, batch.extra["masked_positions"], batch.extra["labels"])
        pairs = pairs_of(dataclasses.replace(batch, ids=ids, extra={}), self.relation, generator)
        if not len(pairs):
            nothing = torch.zeros((), device=ids.device)
            return terms | {name: LossTerm(nothing, 0, weight=0.0) for name in ("relation", "relation_accuracy")}
        relation = self._relation(model, self.encode(model, pairs), pairs)
        return terms | {name: dataclasses.replace(term, weight=0.0) for name, term in relation.items()}

    def evaluate_fed(self, model: Model, batch: Batch, generator: torch.Generator) -> dict[str, LossTerm]:
        """See `ObjectiveModule`: the relation of documents, in pairs without masks."""
        if self.relation != "linked":
            return {}
        pairs = batch if "relation" in batch.extra else pairs_of(batch, self.relation, generator)
        relation = self._relation(model, self.encode(model, pairs), pairs)
        return {name: dataclasses.replace(term, weight=0.0) for name, term in relation.items()}

    def pass_flops(self, model: ModelSettings, length: float, predicted: float, masked: float) -> float:
        return count.flops_per_token(model, length, predicted)

    def _relation(self, model: Model, output: Output, batch: Batch) -> dict[str, LossTerm]:
        labels, scores = batch.extra["relation"], model.extra_head(HEAD)(output.hidden, batch.layout).float()
        correct = (scores.argmax(1) == labels).sum().float()
        total = F.cross_entropy(scores, labels, reduction="sum")
        return {
            "relation": LossTerm(total, len(batch), weight=self.weight),
            "relation_accuracy": LossTerm(correct, len(batch), weight=0.0),
        }


def pairs_of(batch: Batch, relation: Relation, generator: torch.Generator) -> Batch:
    """Return pairs made of whole texts between [CLS] and [SEP], no longer than these; `extra` holds `relation` (B,).

    Texts of fewer than 3 tokens give no pair, so the batch may be empty. The other text of a "next" pair is that of the
    sequence before it.
    """
    device = batch.ids.device
    draws = torch.randint(2**31 - 1, (len(batch), 2), generator=generator, device=device).tolist()
    texts = np.split(batch.ids.cpu().numpy(), batch.cu_seqlens[1:-1].cpu().numpy())
    pairs, labels = [], []
    for number, (text, (place, label)) in enumerate(zip(texts, draws, strict=True)):
        inner, other = text[1:-2], texts[number - 1][1:-1]
        if len(inner) < 2:
            continue
        first = 1 + place % (len(inner) - 1)
        a, b, exchanged = inner[:first], inner[first:], label % 2
        if exchanged and relation != "order":
            exchanged = int(len(texts) > 1 and len(other) > 0)
            b = other[: len(b)] if exchanged else b
        elif exchanged:
            a, b = b, a
        pairs.append(join_pair(a, b, int(text[0]), int(text[-1])))
        labels.append(exchanged)
    ids, segment = (
        torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *(pair[i] for pair in pairs)])) for i in range(2)
    )
    ends = torch.tensor([0, *(len(pair[0]) for pair in pairs)]).cumsum(0).to(torch.int32)
    extra = {"relation": torch.tensor(labels, dtype=torch.int64)}
    return Batch(ids, ends, batch.max_seqlen, segment, extra).to(device)
