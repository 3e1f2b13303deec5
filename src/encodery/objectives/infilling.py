"""Text infilling: the encoder reads a text with spans replaced by one [MASK] each, the decoder writes the whole text.

BART (arXiv:1910.13461). The model is an encoder–decoder (`model.decoder`); the decoder reads the encoder's output and
the tokens before, and predicts every token but the first of a sequence. Differs from the paper: span lengths are those
of `corruption` (there Poisson with mean 3, empty spans included), two spans that meet share a [MASK], and sentences
are not permuted. With `corruption.rate` = 0 the text is copied. Shapes: T tokens, B sequences, M predicted tokens.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.schedule import Schedule
from encodery.corrupt import Corruption, Vocabulary
from encodery.corrupt.span import SpanMasking
from encodery.model import count
from encodery.model.network import Model
from encodery.model.ops.masked_cross_entropy.chunked import masked_cross_entropy
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch, Output
from encodery.objectives import Count, LossTerm, Objective, ObjectiveModule

RATE = Schedule.parse(0.3)


@dataclass(frozen=True, kw_only=True)
class Infilling(Objective):
    """Use it to pre-train an encoder–decoder. `corruption`: which spans the encoder does not see.

    model.decoder={depth=2} objective.is=infilling objective.corruption.rate=0.3
    """

    corruption: Corruption = field(
        default_factory=lambda: SpanMasking(rate=RATE, mask=1.0, random=0.0, keep=0.0, p=1 / 3)
    )

    def __post_init__(self) -> None:
        if self.corruption.predict_rate is not None:
            raise SettingsError(
                "objective.corruption.predict_rate: has no meaning here, since all tokens are predicted."
            )

    def incompatibility(self, model: ModelSettings) -> str | None:
        """See `Objective`: the model needs a decoder that reads a memory and has a head."""
        decoder = model.decoder
        if decoder is not None and decoder.causal and decoder.memory and decoder.head is not None:
            return None
        return (
            "needs a model with a causal decoder that reads a memory and has a head, such as model.decoder={depth=2}."
        )

    def build(self, model: ModelSettings, vocabulary: Vocabulary) -> ObjectiveModule:
        return _InfillingModule(self, vocabulary)


class _InfillingModule(ObjectiveModule):
    keeps_heads = False

    def __init__(self, settings: Infilling, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.corruption, self.mask_id = settings.corruption, vocabulary.mask_id
        self.vocabularies = {vocabulary.special.device: vocabulary}

    def prepare(self, batch: Batch, generator: torch.Generator, progress: float) -> Batch:
        device = batch.ids.device
        if device not in self.vocabularies:
            self.vocabularies[device] = next(iter(self.vocabularies.values())).to(device)
        result = self.corruption.apply(batch.ids, batch.cu_seqlens, self.vocabularies[device], generator, progress)
        return with_targets(batch, merge_masks(result.ids, batch, self.mask_id))

    def counts(self, batch: Batch) -> dict[str, Count]:
        return {"infilling": batch.extra["labels"].numel()}

    def loss(self, model: Model, output: Output, batch: Batch) -> dict[str, LossTerm]:
        assert model.decoder is not None
        head = model.decoder.lm_head
        weight, bias = head.decoder(model.encoder)
        features = head.features(output.hidden[batch.extra["masked_positions"]])
        result = masked_cross_entropy(features, weight, bias, batch.extra["labels"])
        n = batch.extra["labels"].numel()
        return {"infilling": LossTerm(result.total, n), "accuracy": LossTerm(result.correct.sum(), n, weight=0.0)}

    def flops(self, model: ModelSettings, length: float, progress: float) -> float:
        """See `ObjectiveModule`. The [MASK]s that the encoder reads, one per span, are not counted."""
        visible = 1 - self.corruption.rates(progress)[0]
        encoder = visible * count.flops_per_token(dataclasses.replace(model, head=None), length * visible)
        return encoder + count.decoder_flops_per_token(model, length, visible)

    def rates(self, progress: float) -> dict[str, float]:
        return {"mask_rate": self.corruption.rates(progress)[0]}


def merge_masks(ids: Tensor, batch: Batch, mask_id: int) -> Batch:
    """Return a packed batch of `ids` (T,), sequences as in `batch`, with one [MASK] for each run of them."""
    masked = ids == mask_id
    first = torch.zeros_like(masked).index_fill(0, batch.cu_seqlens[:-1].long(), True)
    kept = ~masked | first | ~F.pad(masked, (1, 0))[:-1]
    ends = F.pad(kept.cumsum(0), (1, 0))[batch.cu_seqlens.long()].to(batch.cu_seqlens.dtype)
    segment = None if batch.segment is None else batch.segment[kept]
    return Batch(ids[kept], ends, batch.max_seqlen, segment)


def with_targets(batch: Batch, source: Batch) -> Batch:
    """Return `batch` with `source` as its memory, and in `extra` the positions (M,) that predict the next token, and
    these tokens as `labels` (M,)."""
    last = torch.zeros_like(batch.ids, dtype=torch.bool).index_fill(0, batch.cu_seqlens[1:].long() - 1, True)
    positions = (~last).nonzero().squeeze(1)
    extra = {**batch.extra, "masked_positions": positions, "labels": batch.ids[positions + 1]}
    return dataclasses.replace(batch, extra=extra, memory=source)
