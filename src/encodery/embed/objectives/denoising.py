"""A denoising autoencoder with one vector as bottleneck: delete tokens, write the whole text again. arXiv:2104.06979

TSDAE. A decoder sees the tokens before and the pooled vector, nothing else, so what it needs must be in the vector.
Differs from the paper: the decoder has its own few layers instead of the encoder's weights; it shares the encoder's
token embeddings. The decoder is dropped at the end.
Shapes: B texts, T tokens, H width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from encodery.base.machine import derive_seed
from encodery.base.settings import check_at_least, check_interval
from encodery.embed.examples import EmbeddingExamples, as_single_texts
from encodery.embed.heldout_metrics import EncodedTexts
from encodery.embed.losses import Loss
from encodery.embed.noise import delete_tokens
from encodery.embed.objective_context import ObjectiveContext
from encodery.embed.objective_module import EmbeddingObjectiveModule
from encodery.embed.objectives import EmbeddingObjective
from encodery.embed.objectives._dense_head import DenseHead
from encodery.embed.text_pool import TextPool
from encodery.embed.training_texts import StepInfo, TrainingTexts
from encodery.encoders.single_vector import SingleVectorEncoder
from encodery.model.decoder import Decoder
from encodery.model.decoder_settings import DecoderSettings
from encodery.model.heads.mlm import MLMHead
from encodery.model.memory import Memory
from encodery.model.network import Model
from encodery.model.ops.masked_cross_entropy.chunked import masked_cross_entropy
from encodery.model.shape import Batch, Layout
from encodery.objectives import Count, LossTerm
from encodery.tokens.shuffle import Integers


@dataclass(frozen=True, kw_only=True)
class Denoising(EmbeddingObjective):
    """Use it to adapt one vector per text to raw sentences of a domain, without labels. Every text is used by itself.

    `deletion_rate`: fraction of a text's tokens that are deleted; `depth`: layers of the decoder.

        objective = {is = "denoising", deletion_rate = 0.6}
    """

    deletion_rate: float = 0.6
    depth: int = 1

    def __post_init__(self) -> None:
        check_interval(self, "0 <= x < 1", "deletion_rate")
        check_at_least(self, 1, "depth")

    @property
    def uses_loss(self) -> bool:
        """See `EmbeddingObjective`."""
        return False

    @property
    def single_window(self) -> str:
        """See `EmbeddingObjective`."""
        return "denoising writes a text again as one sequence, from the vector of one"

    def arrange(self, examples: EmbeddingExamples, loss: Loss | None) -> tuple[EmbeddingExamples, list[str]]:
        """See `EmbeddingObjective`. Every text is an example."""
        return as_single_texts(examples), []

    def build(self, context: ObjectiveContext) -> EmbeddingObjectiveModule:
        """See `EmbeddingObjective`."""
        return _DenoisingModule(self, context)


class _DenoisingModule(EmbeddingObjectiveModule):
    def __init__(self, settings: Denoising, context: ObjectiveContext) -> None:
        self.settings, self.context, self.model = settings, context, context.model
        self.head = DenseHead(context)
        model = self.model.settings
        self.decoder = Decoder(DecoderSettings(depth=settings.depth, embedding_norm=True, head=MLMHead()), model)
        generator = torch.Generator().manual_seed(derive_seed(context.seed, "decoder"))
        model.init.apply(self.decoder, model.shape, generator)
        self.decoder.to(context.device)

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return {"pooling": self.head.pooling, "decoder": self.decoder}

    def collate(self, texts: TrainingTexts, examples: Integers, step: StepInfo) -> Batch:
        """Texts with tokens deleted; in `extra` the whole texts: `ids`, `cu_seqlens`, and `row` (B,), the sequence of
        the batch that each was made into."""
        draw, rate = np.random.default_rng(step.seed), self.settings.deletion_rate
        indices = texts.indices[examples][:, 0]
        batch, place = texts.pool.batch(indices, lambda _, ids: delete_tokens(ids, rate, draw))
        whole, order = texts.pool.batch(indices)
        row = torch.empty_like(place)
        row[order] = place
        return dataclasses.replace(batch, extra={"ids": whole.ids, "cu_seqlens": whole.cu_seqlens, "row": row})

    def counts(self, batch: Batch) -> Mapping[str, Count]:
        """All tokens but the first of each text."""
        return {"denoising": batch.extra["ids"].numel() - len(batch)}

    def terms(self, batch: Batch) -> Mapping[str, LossTerm]:
        vectors = self.head.last_vectors(batch)[batch.extra["row"]]
        ids, cu_seqlens = batch.extra["ids"], batch.extra["cu_seqlens"]
        layout = Layout(cu_seqlens, int(cu_seqlens.diff().max()), ids.numel())
        embeddings = self.model.encoder.embeddings
        hidden = self.decoder(embeddings.widen(embeddings(ids, None)), layout, Memory.of_vectors(vectors))
        first = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        first[cu_seqlens[:-1].long()] = True
        predicted = torch.where(~first)[0]
        head = self.decoder.lm_head
        weight, bias = head.decoder(self.model.encoder)
        result = masked_cross_entropy(head.features(hidden[predicted - 1]), weight, bias, ids[predicted])
        accuracy = LossTerm(result.correct.sum(), len(predicted), 0.0)
        return {"denoising": LossTerm(result.total, len(predicted)), "accuracy": accuracy}

    def compare(self, pool: TextPool, texts: np.ndarray) -> EncodedTexts:
        return self.head.compare(pool, texts)

    def encoder(self, model: Model, texts: TrainingTexts) -> SingleVectorEncoder:
        return self.head.encoder(model, texts)
