"""What objectives share that hide tokens and ask for them: the corruption, the rows that are asked, the cross entropy.

Which tokens, how many and by what is the `corruption`'s affair. Scores over the vocabulary are made at the predicted
rows only and never all at once. `z_loss` · log²Z keeps the normaliser of the scores near 1 (PaLM, arXiv 2204.02311,
where it is 1e-4). Shape letters: T tokens, M predicted rows, H hidden, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

import torch

from encodery.base.errors import SettingsError
from encodery.corrupt import CorruptedBatch, Corruption, Vocabulary
from encodery.corrupt.token import TokenMasking
from encodery.model import count
from encodery.model.network import Model, ModelSettings
from encodery.model.ops.masked_cross_entropy.chunked import masked_cross_entropy
from encodery.model.shape import Batch, Output
from encodery.objectives import Count, LossTerm, Objective, ObjectiveModule


@dataclass(frozen=True, kw_only=True)
class MaskedObjective(Objective):
    """Terms: `mlm`, the cross entropy in nats; `z`, where `z_loss` is above 0; `accuracy`, reported only."""

    corruption: Corruption = field(default_factory=TokenMasking)
    z_loss: float = 0.0

    def __post_init__(self) -> None:
        if self.z_loss < 0:
            raise SettingsError(f"z_loss = {self.z_loss}: must be at least 0 (1e-4 is usual, 0 is off).")

    def mask_token_rate(self, progress: float) -> float:
        """The share of the maskable tokens in whose place [MASK] stands."""
        return self.corruption.rates(progress)[0] * self.corruption.mask


class MaskedObjectiveModule(ObjectiveModule):
    """Raises `SettingsError` where the tokenizer has more ids than the model."""

    def __init__(self, settings: MaskedObjective, model: ModelSettings, vocabulary: Vocabulary) -> None:
        super().__init__()
        if vocabulary.special.numel() > model.vocab_size:
            raise SettingsError(
                f"The tokenizer has {vocabulary.special.numel()} ids, the model only {model.vocab_size}: raise model.vocab_size."
            )
        self.settings = settings
        self.mask_id = vocabulary.mask_id
        self.vocabularies = {vocabulary.special.device: vocabulary}

    def prepare(self, batch: Batch, generator: torch.Generator, progress: float) -> Batch:
        """Hide tokens; `extra` holds `rows` (M,) and `targets` (M,). The generator is on the batch's device."""
        device = batch.ids.device
        if device not in self.vocabularies:
            self.vocabularies[device] = next(iter(self.vocabularies.values())).to(device)
        corruption = self.settings.corruption
        done = corruption.apply(batch.ids, batch.cu_seqlens, self.vocabularies[device], generator, progress)
        return _with(batch, done)

    def counts(self, batch: Batch) -> dict[str, Count]:
        """Predicted rows, spare slots left out."""
        targets = batch.extra["labels"]
        n = (targets >= 0).sum() if self.settings.corruption.fixed_predictions else targets.numel()
        return {"mlm": n, "z": n} if self.settings.z_loss else {"mlm": n}

    def loss(self, model: Model, output: Output, batch: Batch) -> dict[str, LossTerm]:
        """Cross entropy at the predicted rows.

        One kernel makes both summands: the gradient of the whole flows through `mlm`, whose value is the cross
        entropy alone, and `z` carries the rest of the value.
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

    def rates(self, progress: float) -> dict[str, float]:
        """`mask_rate`, and `predict_rate` where it differs."""
        corrupted, predicted = self.settings.corruption.rates(progress)
        both = {"mask_rate": corrupted, "predict_rate": predicted}
        return both if corrupted != predicted else {"mask_rate": corrupted}

    def flops(self, model: ModelSettings, length: float, progress: float) -> float:
        """See `ObjectiveModule`; a batch is repeated where prediction outruns corruption."""
        corrupted, predicted = self.settings.corruption.rates(progress)
        copies = max(1, math.ceil(predicted / corrupted - 1e-6)) if corrupted else 1
        left_out = round(self.settings.mask_token_rate(progress), 2)
        return copies * self._flops(model, length, round(predicted / copies, 2), left_out)

    def _flops(self, model: ModelSettings, length: float, predicted: float, left_out: float) -> float:
        return count.flops_per_token(model, length, predicted)


def _with(batch: Batch, done: CorruptedBatch) -> Batch:
    """The corrupted batch; repeated with its copies where prediction outruns corruption."""
    if done.copies == 1:
        return batch.with_ids(done.ids, masked_positions=done.masked_positions, labels=done.labels)
    extra = {**batch.extra, "masked_positions": done.masked_positions, "labels": done.labels}
    segment = None if batch.segment is None else batch.segment.repeat(done.copies)
    return dataclasses.replace(batch, ids=done.ids, cu_seqlens=done.cu_seqlens, segment=segment, extra=extra)
