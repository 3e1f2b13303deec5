"""Masked language modelling of neighbouring spans, each of which is also decoded from the [CLS] vector of the other.

CoT-MAE (arXiv:2208.07670). The encoder predicts the masked tokens of each span. A shallow decoder reads the [CLS]
vector of the neighbouring span and this span with more of its tokens masked, and predicts these, so a [CLS] vector must
say what the text around it is about. The decoder reads the model's token embeddings, its output goes through the
model's head, and it is dropped after training. Differs from the paper: the spans are the halves of a piece of text
(feed `neighbours`; there they are sampled).
Shapes: T tokens, B sequences, M predicted tokens, H width.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass, field

import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.schedule import Schedule
from encodery.base.settings import check_at_least
from encodery.corrupt import Corruption, Vocabulary
from encodery.corrupt.token import TokenMasking
from encodery.model import count
from encodery.model.decoder import Decoder
from encodery.model.decoder_settings import DecoderSettings
from encodery.model.network import Model
from encodery.model.ops.masked_cross_entropy.chunked import masked_cross_entropy
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch, Output
from encodery.objectives import Count, LossTerm, ObjectiveModule
from encodery.objectives._decoder_layers import decoder_layers
from encodery.objectives._masked import MaskedObjective, MaskedObjectiveModule
from encodery.tokens.feeds import DataFeed
from encodery.tokens.feeds.neighbours import Neighbours

ENCODER_RATE, DECODER_RATE = Schedule.parse(0.3), Schedule.parse(0.45)


@dataclass(frozen=True, kw_only=True)
class NeighbourDecoding(MaskedObjective):
    """Use it to pre-train an encoder whose [CLS] vector is then trained for retrieval. `corruption`: what the encoder
    does not see; `decoder_corruption`: what the decoder does not see; `depth`: layers of the decoder; `weight`: that of
    the decoder's loss, beside 1 of the masked tokens. Further terms: `context`, in nats, and `context_accuracy`.

        objective.is=neighbour_decoding objective.depth=2
    """

    corruption: Corruption = field(default_factory=lambda: TokenMasking(rate=ENCODER_RATE))
    decoder_corruption: Corruption = field(
        default_factory=lambda: TokenMasking(rate=DECODER_RATE, mask=1.0, random=0.0, keep=0.0)
    )
    depth: int = 1
    weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "depth")
        check_at_least(self, 0, "weight")
        for name in ("corruption", "decoder_corruption"):
            if getattr(self, name).predict_rate is not None:
                raise SettingsError(f"objective.{name}.predict_rate: is not supported with pairs; leave it out.")

    @property
    def feed(self) -> DataFeed:
        return Neighbours()

    def build(self, model: ModelSettings, vocabulary: Vocabulary) -> ObjectiveModule:
        return _NeighbourDecodingModule(self, model, vocabulary)

    def num_parameters(self, model: ModelSettings) -> int:
        """Return the number of weights of the decoder."""
        with torch.device("meta"):
            return sum(p.numel() for p in _decoder(model, self.depth).parameters())

    def activation_bytes(self, model: ModelSettings, tokens: int, length: int) -> int:
        """See `Objective`: what the decoder and the head behind it keep."""
        rate = self.decoder_corruption.rate.maximum
        return count.activation_bytes(decoder_layers(model, self.depth), tokens, length, rate)


class _NeighbourDecodingModule(MaskedObjectiveModule):
    def __init__(self, settings: NeighbourDecoding, model: ModelSettings, vocabulary: Vocabulary) -> None:
        super().__init__(settings, model, vocabulary)
        self.decoder_corruption, self.weight, self.depth = settings.decoder_corruption, settings.weight, settings.depth
        self.init, self.shape = model.init, model.shape
        self.decoder = _decoder(model, settings.depth)

    def init_weights(self, generator: torch.Generator) -> None:
        self.init.apply(self.decoder, self.shape, generator)

    def prepare(self, batch: Batch, generator: torch.Generator, progress: float) -> Batch:
        """Mask tokens of spans, once for the encoder and once for the decoder; a batch of whole texts, which no feed
        has made, is divided into spans first. `extra` holds `decoder_ids` (T,), `decoder_positions` (M,) and
        `decoder_labels` (M,) too."""
        spans = batch if "relation" in batch.extra else halves_of(batch)
        masked = super().prepare(spans, generator, progress)
        vocabulary = self.vocabularies[spans.ids.device]
        hidden = self.decoder_corruption.apply(spans.ids, spans.cu_seqlens, vocabulary, generator, progress)
        extra = {
            "decoder_ids": hidden.ids,
            "decoder_positions": hidden.masked_positions,
            "decoder_labels": hidden.labels,
        }
        return dataclasses.replace(masked, extra={**masked.extra, **extra})

    def counts(self, batch: Batch) -> dict[str, Count]:
        return super().counts(batch) | {"context": (batch.extra["decoder_labels"] >= 0).sum()}

    def loss(self, model: Model, output: Output, batch: Batch) -> dict[str, LossTerm]:
        """Return the terms of the masked tokens and of the decoder."""
        return super().loss(model, output, batch) | self._context(model, output, batch)

    def evaluate(self, model: Model, batch: Batch, generator: torch.Generator) -> dict[str, LossTerm]:
        """See `ObjectiveModule`: masked tokens in whole texts, as for `mlm`, and the decoder on the halves of these
        texts, masked as in training."""
        terms = super().evaluate(model, batch, generator)
        ids = batch.ids.index_copy(0, batch.extra["masked_positions"], batch.extra["labels"])
        spans = halves_of(dataclasses.replace(batch, ids=ids, extra={}))
        if not len(spans):
            nothing = torch.zeros((), device=ids.device)
            return terms | {name: LossTerm(nothing, 0, weight=0.0) for name in ("context", "context_accuracy")}
        spans = self.prepare(spans, generator, 1.0)
        context = self._context(model, self.encode(model, spans), spans)
        return terms | {name: dataclasses.replace(term, weight=0.0) for name, term in context.items()}

    def flops(self, model: ModelSettings, length: float, progress: float) -> float:
        """See `ObjectiveModule`: the model and the decoder."""
        rate = round(self.decoder_corruption.rates(progress)[0], 2)
        decoder = count.flops_per_token(decoder_layers(model, self.depth), length, rate)
        return super().flops(model, length, progress) + decoder

    def pass_flops(self, model: ModelSettings, length: float, predicted: float, masked: float) -> float:
        return count.flops_per_token(model, length, predicted)

    def rates(self, progress: float) -> dict[str, float]:
        """See `ObjectiveModule`: `decoder_mask_rate` too."""
        return super().rates(progress) | {"decoder_mask_rate": self.decoder_corruption.rates(progress)[0]}

    def _context(self, model: Model, output: Output, batch: Batch) -> dict[str, LossTerm]:
        """The terms of the decoder: the first position of each span has the [CLS] vector of its neighbour."""
        embeddings, ids = model.encoder.embeddings, batch.extra["decoder_ids"]
        first = batch.cu_seqlens[:-1].long()
        vectors = output.hidden[first[neighbour(len(batch), ids.device)]]
        x = embeddings.widen(embeddings(ids, batch.segment))
        hidden = self.decoder(x.index_copy(0, first, vectors.to(x.dtype)), batch.layout)
        features = model.mlm_head.features(hidden[batch.extra["decoder_positions"]])
        weight, bias = model.mlm_head.decoder(model.encoder)
        labels = batch.extra["decoder_labels"]
        result, n = masked_cross_entropy(features, weight, bias, labels), (labels >= 0).sum()
        return {
            "context": LossTerm(result.total, n, weight=self.weight),
            "context_accuracy": LossTerm(result.correct.sum(), n, weight=0.0),
        }


def neighbour(count: int, device: torch.device) -> Tensor:
    """Return (count,): the sequence that is the neighbour of each; those of a piece are 2i and 2i + 1."""
    return torch.arange(count, device=device) ^ 1


def halves_of(batch: Batch) -> Batch:
    """Return the halves of whole texts between [CLS] and [SEP], as the feed `neighbours` makes them of pieces.

    Texts of fewer than 2 tokens give none, so the batch may be empty.
    """
    ends = batch.cu_seqlens.tolist()
    spans, lengths = [batch.ids[:0]], [0]
    for start, end in itertools.pairwise(ends):
        middle = start + 1 + (end - start - 2) // 2
        if middle == start + 1:
            continue
        cls, sep = batch.ids[start : start + 1], batch.ids[end - 1 : end]
        for span in (batch.ids[start + 1 : middle], batch.ids[middle : end - 1]):
            spans += [cls, span, sep]
            lengths.append(len(span) + 2)
    cu_seqlens = torch.tensor(lengths).cumsum(0).to(batch.cu_seqlens)
    return Batch(torch.cat(spans), cu_seqlens, max(lengths))


def _decoder(model: ModelSettings, depth: int) -> Decoder:
    """Layers (T, H) → (T, H) that attend to both sides; the model's head follows them."""
    settings = DecoderSettings(depth=depth, causal=False, memory=False, embedding_norm=True, head=None)
    return Decoder(settings, model)
