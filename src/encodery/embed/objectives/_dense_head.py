"""The head of one embedding per text: pooling, and the postprocess steps that are fitted to the training texts.

Shapes: S sequences of a batch, P texts, L earlier layers, H width of the model, K dimensions after postprocessing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.machine import derive_seed
from encodery.base.settings import encode
from encodery.embed.heldout_metrics import EncodedVectors
from encodery.embed.objective_context import ObjectiveContext, encode_pool, evaluation_mode, seeded
from encodery.embed.source_encoder import trained_encoder
from encodery.embed.text_pool import TextPool
from encodery.embed.trainable_postprocess import TrainablePostProcess
from encodery.embed.training_texts import TrainingTexts
from encodery.encoders import storage
from encodery.encoders.postprocess import PostProcess
from encodery.encoders.postprocessing import PostProcessing, unfitted_postprocessing
from encodery.encoders.single_vector import SingleVectorEncoder
from encodery.model.network import Model
from encodery.model.shape import Batch, Output

SAMPLE_TEXTS = 20_000  # that the postprocess steps are fitted to.


class DenseHead:
    """Makes vectors of hidden states. The pooling has the weights that the model stores for it, else new ones."""

    def __init__(self, context: ObjectiveContext) -> None:
        self.context, self.model, self.steps = context, context.model, context.encoder.postprocess
        self.trained_through: TrainablePostProcess | None = None
        settings = context.encoder.pooling
        with seeded(derive_seed(context.seed, "pooling")):
            pooling = settings.build(self.model.settings.shape)
        loaded = context.loaded
        if storage.is_stored(loaded) and loaded.settings[storage.MODULE]["pooling"] == encode(settings):
            pooling.load_state_dict(storage.pooling_state(loaded.module_state(storage.MODULE)))
        self.pooling = pooling.to(context.device)

    def vectors(self, batch: Batch, layers: Sequence[int] = ()) -> Tensor:
        """Return (S, 1 + L, H): the sequences' vectors of the last layer, then of earlier ones, not postprocessed."""
        output = self.model.encoder(batch, keep_layers=self.pooling.keep_layers or bool(layers))
        pooled = [self.pooling(output, batch)]
        for layer in layers:
            hidden = self.model.encoder.final_norm(output.layers[layer])
            pooled.append(self.pooling(Output(hidden), batch))
        return torch.stack(pooled, dim=1)

    def last_vectors(self, batch: Batch) -> Tensor:
        """Return (S, H), the sequences' vectors of the last layer."""
        return self.vectors(batch)[:, 0]

    def encode(self, pool: TextPool, texts: np.ndarray) -> np.ndarray:
        """Return the vectors (P, H) of texts of a pool, not postprocessed."""
        with evaluation_mode([self.model, self.pooling]):
            return encode_pool(self.last_vectors, pool, texts, self.context)

    def compare(self, pool: TextPool, texts: np.ndarray) -> EncodedVectors:
        """Return texts (P,) of a pool as they are compared in use, without steps that are fitted after training."""
        steps = unfitted_postprocessing(_without_fit(self.steps))
        if self.trained_through is not None:
            steps = self.trained_through.postprocessing()
        return EncodedVectors(steps.apply(self.encode(pool, texts)))

    def fit_before_training(self, texts: TrainingTexts) -> None:
        """Fit the postprocess steps now; vectors are trained through them (`trainable_postprocess.py`)."""
        if not self._is_fitted():
            raise SettingsError(
                "whiten_before_training: none of the postprocess steps is fitted; whiten and centre are."
            )
        self.trained_through = TrainablePostProcess(self.steps, self.sample(texts)).to(self.context.device)

    def encoder(self, model: Model, texts: TrainingTexts) -> SingleVectorEncoder:
        """Return the encoder of the trained model; its steps are fitted to the training texts if not yet."""
        pooling = self.context.encoder.pooling.build(model.settings.shape)
        pooling.load_state_dict({name: tensor.cpu() for name, tensor in self.pooling.state_dict().items()})
        steps = self.postprocessing(texts)
        return trained_encoder(self.context.loaded, model, self.context.encoder, steps, pooling)

    def postprocessing(self, texts: TrainingTexts) -> PostProcessing:
        """Return the postprocess steps with what was fitted."""
        if self.trained_through is not None:
            return self.trained_through.postprocessing()
        return (
            PostProcessing.fitted(self.steps, self.sample(texts))
            if self._is_fitted()
            else unfitted_postprocessing(self.steps)
        )

    def _is_fitted(self) -> bool:
        return len(_without_fit(self.steps)) < len(self.steps)

    def sample(self, texts: TrainingTexts) -> np.ndarray:
        """Vectors (P, H) of training texts that are drawn at random."""
        draw = np.random.default_rng(derive_seed(self.context.seed, "finish"))  # Another tag: another sample.
        return self.encode(texts.pool, np.sort(draw.permutation(len(texts.pool.texts))[:SAMPLE_TEXTS]))


def _without_fit(steps: tuple[PostProcess, ...]) -> tuple[PostProcess, ...]:
    return tuple(step for step in steps if type(step).fit is PostProcess.fit)
