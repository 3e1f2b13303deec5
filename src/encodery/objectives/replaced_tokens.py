"""Replaced-token detection: a generator replaces masked tokens, the model says of every token whether it was replaced.

ELECTRA (arXiv:2003.10555). The generator, a narrow masked language model that shares the model's embedding tables, is
trained with the cross entropy of the masked tokens. Tokens drawn from its distribution replace them, without a gradient
through the draw, and the model's head `replaced_tokens` is trained on all tokens, [CLS] and [SEP] included, with the
binary cross entropy. Only the model is saved. Differs from the released code of the paper: all of the masked tokens
become [MASK] (there 85 %), as the paper says. Shapes: T tokens, M masked tokens.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.base.settings import check_at_least, check_interval
from encodery.corrupt import Corruption, Vocabulary
from encodery.corrupt.token import TokenMasking
from encodery.model import count
from encodery.model.extra_heads.replaced_tokens import ReplacedTokenHead
from encodery.model.network import Model
from encodery.model.ops.masked_cross_entropy.chunked import masked_cross_entropy
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch, Output
from encodery.objectives import Count, LossTerm, Objective, ObjectiveModule
from encodery.objectives._generator import Generator, generator_settings

HEAD = name_of(ReplacedTokenHead)


@dataclass(frozen=True, kw_only=True)
class ReplacedTokens(Objective):
    """Use it to pre-train an encoder that learns from every token, for fine-tuning; the model then fills no masks.

    `generator_size`: the generator's width, heads and intermediate size as a fraction of the model's; `weight`: that of
    the detection, beside 1 of the generator's loss. Terms: `mlm`, of the generator, and `detection`, both in nats;
    reported only: `accuracy` and `recall` of the detection, and `replaced`, the fraction of tokens that were replaced.

        objective.is=replaced_tokens model.head=none model.extra_heads=["replaced_tokens"]
    """

    corruption: Corruption = field(default_factory=lambda: TokenMasking(mask=1.0, random=0.0, keep=0.0))
    generator_size: float = 0.25
    weight: float = 50.0

    def __post_init__(self) -> None:
        check_interval(self, "0 < x <= 1", "generator_size")
        check_at_least(self, 0, "weight")
        if self.corruption.predict_rate is not None:
            raise SettingsError(
                "objective.corruption.predict_rate: all masked tokens are predicted here; leave it out."
            )

    def incompatibility(self, model: ModelSettings) -> str | None:
        """See `Objective`: the model has the head of the detection, and no head that would stay untrained."""
        if model.decoder is None and model.head is None and [name_of(head) for head in model.extra_heads] == [HEAD]:
            return None
        return f"trains the head '{HEAD}' alone: set model.head=none model.extra_heads=[\"{HEAD}\"], without a decoder."

    def build(self, model: ModelSettings, vocabulary: Vocabulary) -> ObjectiveModule:
        return _ReplacedTokensModule(self, model, vocabulary)

    def num_parameters(self, model: ModelSettings) -> int:
        """Return the number of weights of the generator, without the shared tables."""
        with torch.device("meta"):
            generator = Generator(generator_settings(model, self.generator_size), model)
        return sum(p.numel() for p in generator.parameters())

    def activation_bytes(self, model: ModelSettings, tokens: int, length: int) -> int:
        """See `Objective`: what the generator keeps."""
        generator = generator_settings(model, self.generator_size)
        return count.activation_bytes(generator, tokens, length, self.corruption.rate.maximum)


class _ReplacedTokensModule(ObjectiveModule):
    def __init__(self, settings: ReplacedTokens, model: ModelSettings, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.corruption, self.weight = settings.corruption, settings.weight
        self.generator_settings = generator_settings(model, settings.generator_size)
        self.generator = Generator(self.generator_settings, model)
        self.vocabularies = {vocabulary.special.device: vocabulary}

    def init_weights(self, generator: torch.Generator) -> None:
        settings = self.generator_settings
        settings.init.apply(self.generator, settings.shape, generator)

    def attach(self, model: Model) -> None:
        """Share the model's embedding tables with the generator."""
        self.generator.share(model.encoder)

    def prepare(self, batch: Batch, generator: torch.Generator, progress: float) -> Batch:
        """Mask tokens; `extra` holds `masked_positions` (M,), their `labels` (M,) and `draws` (M,) in [0, 1)."""
        device = batch.ids.device
        if device not in self.vocabularies:
            self.vocabularies[device] = next(iter(self.vocabularies.values())).to(device)
        result = self.corruption.apply(batch.ids, batch.cu_seqlens, self.vocabularies[device], generator, progress)
        masked = batch.with_ids(result.ids, masked_positions=result.masked_positions, labels=result.labels)
        return _with_draws(masked, generator)

    def counts(self, batch: Batch) -> dict[str, Count]:
        """Return the number of masked tokens and that of all tokens."""
        return {"mlm": _num_masked(batch), "detection": batch.tokens}

    def forward(self, model: Model, batch: Batch) -> dict[str, LossTerm]:
        """Run the generator on a prepared batch, then the model on what it wrote."""
        written, terms = self._write(batch)
        return terms | self.terms(model, self.encode(model, written), written)

    def loss(self, model: Model, output: Output, batch: Batch) -> dict[str, LossTerm]:
        """Return the terms of the detection; `batch.extra` holds `replaced` (T,) bool."""
        replaced = batch.extra["replaced"]
        scores = model.extra_head(HEAD)(output.hidden, batch.layout).float()
        total = F.binary_cross_entropy_with_logits(scores, replaced.float(), reduction="sum")
        flagged = scores > 0
        reported: dict[str, tuple[Any, Any]] = {
            "accuracy": ((flagged == replaced).sum(), batch.tokens),
            "recall": ((flagged & replaced).sum(), replaced.sum()),
            "replaced": (replaced.sum(), batch.tokens),
        }
        terms = {name: LossTerm(value.float(), n, weight=0.0) for name, (value, n) in reported.items()}
        return {"detection": LossTerm(total, batch.tokens, weight=self.weight), **terms}

    def evaluate(self, model: Model, batch: Batch, generator: torch.Generator) -> dict[str, LossTerm]:
        """See `ObjectiveModule`: at the fixed masks of the held-out text."""
        terms: dict[str, LossTerm] = self(model, _with_draws(batch, generator))
        return terms

    def flops(self, model: ModelSettings, length: float, progress: float) -> float:
        """See `ObjectiveModule`: the generator, the logits from which tokens are drawn, and the model."""
        rate, shape = round(self.corruption.rates(progress)[0], 2), model.shape
        generator = count.flops_per_token(self.generator_settings, length, rate)
        return generator + 2.0 * rate * shape.vocab_size * shape.embedding_size + count.flops_per_token(model, length)

    def rates(self, progress: float) -> dict[str, float]:
        return {"mask_rate": self.corruption.rates(progress)[0]}

    def _write(self, batch: Batch) -> tuple[Batch, dict[str, LossTerm]]:
        """The batch with the masked tokens as the generator writes them, and the generator's terms."""
        network, positions, labels = self.generator.network, batch.extra["masked_positions"], batch.extra["labels"]
        features = network.mlm_head.features(network.encoder(batch).hidden[positions])
        weight, bias = network.mlm_head.decoder(network.encoder)
        result = masked_cross_entropy(features, weight, bias, labels)
        drawn = self.generator.draw(features, batch.extra["draws"])
        real = labels >= 0
        drawn = torch.where(real, drawn, batch.ids[positions])
        replaced = torch.zeros_like(batch.ids, dtype=torch.bool).index_copy_(0, positions, real & (drawn != labels))
        written = batch.with_ids(batch.ids.index_copy(0, positions, drawn), replaced=replaced)
        return written, {"mlm": LossTerm(result.total, _num_masked(batch))}


def _with_draws(batch: Batch, generator: torch.Generator) -> Batch:
    labels = batch.extra["labels"]
    draws = torch.rand(labels.shape, generator=generator, device=labels.device)
    return dataclasses.replace(batch, extra={**batch.extra, "draws": draws})


def _num_masked(batch: Batch) -> Count:
    return (batch.extra["labels"] >= 0).sum()
