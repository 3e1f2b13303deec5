"""One embedding per text, learned from a loss of similarities: bi-encoders. arXiv:1908.10084

The default. Texts of a step go through the model in chunks of `train.micro_batch_tokens` that meet in the loss
(`gradient_cache.py`), so a batch may be larger than memory.
Shapes: B examples, C columns, L layers that the loss samples, K dimensions of an embedding.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.embed.gradient_cache import run_in_chunks
from encodery.embed.heldout_metrics import EncodedTexts
from encodery.embed.loss_computation import LossComputation
from encodery.embed.objective_context import ObjectiveContext
from encodery.embed.objective_module import EmbeddingObjectiveModule
from encodery.embed.objectives import EmbeddingObjective
from encodery.embed.objectives._dense_head import DenseHead
from encodery.embed.objectives._noise import span_noise
from encodery.embed.text_pool import TextPool
from encodery.embed.training_texts import StepInfo, TrainingTexts, by_column
from encodery.encoders.single_vector import SingleVectorEncoder
from encodery.model.network import Model
from encodery.model.shape import Batch
from encodery.objectives import Count, LossTerm
from encodery.tokens.shuffle import Integers


@dataclass(frozen=True, kw_only=True)
class Dense(EmbeddingObjective):
    """Use it when texts are to be searched or compared by one vector each.

    `whiten_before_training`: postprocess steps that are fitted are fitted before the first step, and the vectors are
    trained through them; otherwise they are fitted after the last.

        objective = "dense"
        loss = "infonce"
    """

    whiten_before_training: bool = False

    def build(self, context: ObjectiveContext) -> EmbeddingObjectiveModule:
        """See `EmbeddingObjective`."""
        return _DenseModule(self, context)


class _DenseModule(EmbeddingObjectiveModule):
    def __init__(self, settings: Dense, context: ObjectiveContext) -> None:
        self.settings, self.context = settings, context
        self.head, self.loss = DenseHead(context), LossComputation(context)
        self.in_batch = self.loss.loss.in_batch
        if self.head.pooling.keep_layers and self.loss.loss.sample_layers(context.model.settings.depth, 0):
            raise SettingsError(
                f"The loss learns from single layers, pooling = '{name_of(context.encoder.pooling)}' joins several."
            )

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        through = self.head.trained_through
        return {"pooling": self.head.pooling, **({} if through is None else {"postprocess": through})}

    def fit(self, texts: TrainingTexts) -> list[str]:
        if self.settings.whiten_before_training:
            self.head.fit_before_training(texts)
        return []

    def collate(self, texts: TrainingTexts, examples: Integers, step: StepInfo) -> Batch:
        return texts.batch(examples, step, span_noise(self.context, len(examples), step.seed))

    def counts(self, batch: Batch) -> Mapping[str, Count]:
        return self.loss.counts(batch)

    def terms(self, batch: Batch) -> Mapping[str, LossTerm]:
        layers = batch.extra["layers"].tolist()
        encode = functools.partial(self.head.vectors, layers=layers)
        vectors = by_column(run_in_chunks(encode, batch, self.context.micro_batch_tokens), batch, layers)
        with torch.autocast(self.context.device.type, enabled=False):
            vectors = vectors.float()
            if self.head.trained_through is not None:
                vectors = self.head.trained_through(vectors)
            return self.loss.loss.terms(self.loss.vector_inputs(self.loss.gather(vectors, 1), batch))

    def compare(self, pool: TextPool, texts: np.ndarray) -> EncodedTexts:
        return self.head.compare(pool, texts)

    def encoder(self, model: Model, texts: TrainingTexts) -> SingleVectorEncoder:
        return self.head.encoder(model, texts)
