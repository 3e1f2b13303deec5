"""What objectives with masked tokens share: the corruption, the predicted positions, the cross entropy.

The `corruption` decides which tokens are masked, how many, and with what. Logits over the vocabulary are computed at
the predicted positions only, and never all at once. `z_loss` · log²Z keeps the normaliser of the logits near 1 (PaLM,
arXiv:2204.02311, where it is 1e-4). Shape letters: T tokens, M predicted positions, H hidden, V vocabulary.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from encodery.base.errors import SettingsError
from encodery.base.settings import check_at_least
from encodery.corrupt import CorruptedBatch, Corruption, Vocabulary
from encodery.corrupt.token import TokenMasking
from encodery.model.network import Model
from encodery.model.ops.masked_cross_entropy.chunked import masked_cross_entropy
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch, Output
from encodery.objectives import Count, LossTerm, Objective, ObjectiveModule
from encodery.objectives._heldout import cross_entropy_metrics, masked_token_terms


@dataclass(frozen=True, kw_only=True)
class MaskedObjective(Objective):
    """Settings that all masked objectives have; abstract. Terms: `mlm`, the cross entropy in nats; `z`, if `z_loss` is
    above 0; `accuracy`, reported only."""

    corruption: Corruption = field(default_factory=TokenMasking)
    z_loss: float = 0.0

    def __post_init__(self) -> None:
        check_at_least(self, 0, "z_loss")

    def mask_token_rate(self, progress: float) -> float:
        """Return the fraction of the maskable tokens that become [MASK]."""
        return self.corruption.rates(progress)[0] * self.corruption.mask


class MaskedObjectiveModule(ObjectiveModule):
    """A masked objective at work; abstract: a part says what its forward pass costs, and may run the model otherwise.

    Raises `SettingsError` if the tokenizer has more ids than the model.
    """

    def __init__(self, settings: MaskedObjective, model: ModelSettings, vocabulary: Vocabulary) -> None:
        super().__init__()
        if vocabulary.special.numel() > model.vocab_size:
            raise SettingsError(
                f"The tokenizer has {vocabulary.special.numel()} ids, the model only {model.vocab_size}: "
                "raise model.vocab_size."
            )
        self.settings = settings
        self.mask_id = vocabulary.mask_id
        self.vocabularies = {vocabulary.special.device: vocabulary}

    def prepare(self, batch: Batch, generator: torch.Generator, progress: float) -> Batch:
        """Mask tokens; `extra` holds `masked_positions` (M,) and `labels` (M,). The generator is on the batch's
        device."""
        device = batch.ids.device
        if device not in self.vocabularies:
            self.vocabularies[device] = next(iter(self.vocabularies.values())).to(device)
        corruption = self.settings.corruption
        result = corruption.apply(batch.ids, batch.cu_seqlens, self.vocabularies[device], generator, progress)
        return _corrupted(batch, result)

    def counts(self, batch: Batch) -> dict[str, Count]:
        """Return the number of predicted positions, spare ones excluded."""
        labels = batch.extra["labels"]
        n = (labels >= 0).sum() if self.settings.corruption.fixed_predictions else labels.numel()
        return {"mlm": n, "z": n} if self.settings.z_loss else {"mlm": n}

    def loss(self, model: Model, output: Output, batch: Batch) -> dict[str, LossTerm]:
        """Return the cross entropy at the predicted positions.

        One kernel computes both summands: the gradient of their sum flows through `mlm`, whose value is the cross
        entropy alone, and `z` holds the rest of the value.
        """
        features = model.mlm_head.features(output.hidden[batch.extra["masked_positions"]])
        weight, bias = model.mlm_head.decoder(model.encoder)
        result = masked_cross_entropy(features, weight, bias, batch.extra["labels"], self.settings.z_loss)
        n = self.counts(batch)["mlm"]
        terms = {"mlm": LossTerm(result.total, n), "accuracy": LossTerm(result.correct.sum(), n, weight=0.0)}
        if self.settings.z_loss:
            z = result.total.detach() - result.nll.sum(dtype=result.total.dtype)
            terms |= {"mlm": LossTerm(result.total - z, n), "z": LossTerm(z, n)}
        return terms

    def evaluate(self, model: Model, batch: Batch, generator: torch.Generator) -> dict[str, LossTerm]:
        """See `ObjectiveModule`: the cross entropy in nats and the accuracy at the fixed masks."""
        return masked_token_terms(model, batch, self.encode(model, batch))

    def heldout_metrics(self, means: Mapping[str, float], tokens_per_byte: float) -> dict[str, float]:
        """See `ObjectiveModule`: `bits_per_byte` and `perplexity` too."""
        return dict(means) | cross_entropy_metrics(means["loss"], tokens_per_byte)

    def rates(self, progress: float) -> dict[str, float]:
        """Return `mask_rate`, and `predict_rate` if it differs."""
        corrupted, predicted = self.settings.corruption.rates(progress)
        both = {"mask_rate": corrupted, "predict_rate": predicted}
        return both if corrupted != predicted else {"mask_rate": corrupted}

    def flops(self, model: ModelSettings, length: float, progress: float) -> float:
        """Return the operations per token of the batch before `prepare`, which may repeat it."""
        copies = self.settings.corruption.copies(progress)
        predicted = self.settings.corruption.rates(progress)[1]
        masked = round(self.settings.mask_token_rate(progress), 2)
        return copies * self.pass_flops(model, length, round(predicted / copies, 2), masked)

    @abc.abstractmethod
    def pass_flops(self, model: ModelSettings, length: float, predicted: float, masked: float) -> float:
        """Return the operations per token of one pass, given the fractions of tokens predicted and masked."""


def _corrupted(batch: Batch, result: CorruptedBatch) -> Batch:
    """The corrupted batch; repeated with its copies if more tokens are predicted than corrupted."""
    if result.copies == 1:
        return batch.with_ids(result.ids, masked_positions=result.masked_positions, labels=result.labels)
    extra = {**batch.extra, "masked_positions": result.masked_positions, "labels": result.labels}
    segment = None if batch.segment is None else batch.segment.repeat(result.copies)
    prefix = None if batch.prefix is None else batch.prefix.repeat(result.copies)
    return dataclasses.replace(
        batch, ids=result.ids, cu_seqlens=result.cu_seqlens, segment=segment, extra=extra, prefix=prefix
    )
