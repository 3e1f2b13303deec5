"""The running half of an objective of embedding training: what one run trains besides the model, and how.

Shapes: C columns, B examples of a batch, P texts.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping

import numpy as np
from torch import nn

from encodery.embed.heldout_metrics import EncodedTexts
from encodery.embed.text_pool import TextPool
from encodery.embed.training_texts import StepInfo, TrainingTexts
from encodery.encoders.model_encoder import ModelEncoder
from encodery.model.network import Model
from encodery.model.shape import Batch
from encodery.objectives import Count, LossTerm
from encodery.tokens.shuffle import Integers


class EmbeddingObjectiveModule(abc.ABC):
    """The running half of an objective. It is built on the run's device; all its randomness comes from seeds."""

    in_batch: bool = False
    """Whether the loss of an example depends on the other examples of the step."""

    @property
    @abc.abstractmethod
    def modules(self) -> Mapping[str, nn.Module]:
        """What is trained besides the model, by the name that checkpoints have for it."""

    @abc.abstractmethod
    def collate(self, texts: TrainingTexts, examples: Integers, step: StepInfo) -> Batch:
        """Return the examples (B,) as a packed batch on the CPU, with labels in `extra`; equal for equal arguments."""

    @abc.abstractmethod
    def counts(self, batch: Batch) -> Mapping[str, Count]:
        """Return the counts of the learned terms of a collated batch, before the model runs."""

    @abc.abstractmethod
    def terms(self, batch: Batch) -> Mapping[str, LossTerm]:
        """Run the model: the loss terms of a collated batch."""

    @abc.abstractmethod
    def compare(self, pool: TextPool, texts: np.ndarray) -> EncodedTexts:
        """Return texts (P,) of a pool, encoded as they are in use."""

    @abc.abstractmethod
    def encoder(self, model: Model, texts: TrainingTexts) -> ModelEncoder:
        """Return the encoder to be saved, on the CPU, from the trained model and the training texts."""

    def fit(self, texts: TrainingTexts) -> list[str]:
        """Fit to the training texts what is fitted before the first step; return warnings for the user."""
        return []
