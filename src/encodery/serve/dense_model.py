"""Served models of dense embeddings: a vector for each text, or the hidden state of each of its tokens.

Shapes: N texts, B windows of a batch, T tokens of a batch, H width of the model.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from encodery.base.parts import name_of
from encodery.encoders.dense import DenseEncoder
from encodery.encoders.packing import pack_sequences
from encodery.model.network import Model
from encodery.model.shape import Batch, Output
from encodery.serve.served_model import (
    InferenceRequest,
    InferenceResult,
    ServedModel,
    TokenizedRequest,
    check_finite,
)
from encodery.serve.shared_encoder import EncoderHead
from encodery.serve.vector_model import VectorContext, VectorModel


class DenseModel(VectorModel, EncoderHead):
    """One vector for each text, pooled from hidden states. `dims`, `truncate`: see `VectorModel`;
    `single_thread_encoder`: the same encoder on a runtime of one thread, if its runtime has its own threads."""

    encoder_model: DenseEncoder

    def __init__(
        self,
        encoder_model: DenseEncoder,
        dims: Sequence[int] = (),
        truncate: str = "error",
        single_thread_encoder: DenseEncoder | None = None,
    ) -> None:
        super().__init__(encoder_model, dims, truncate)
        self.single_thread_encoder = single_thread_encoder
        self.exclusive = encoder_model.engine is not None and single_thread_encoder is None
        self.needs_layers = encoder_model.pooling.keep_layers

    def single_threaded(self) -> ServedModel:
        """See `ServedModel`."""
        if self.single_thread_encoder is None:
            return self
        model = copy.copy(self)
        model.encoder_model = self.single_thread_encoder
        return model

    def info(self) -> dict[str, Any]:
        """See `ServedModel`."""
        info = super().info() | {"pooling": name_of(self.encoder_model.settings.pooling)}
        assumption = self.encoder_model.assumption
        return info if assumption is None else info | {"assumed": assumption}

    @property
    def model(self) -> Model:
        """The encoder's."""
        return self.encoder_model.model

    @property
    def device(self) -> torch.device:
        """The encoder's."""
        return self.encoder_model.device

    @property
    def shareable(self) -> bool:
        """Not on a runtime, which has the weights in its own form."""
        return self.encoder_model.engine is None

    @property
    def encoder(self) -> object | None:
        """The runtime's engine if there is one, else the model's encoder."""
        return self.encoder_model.engine or self.model.encoder

    def run_encoder(self, batch: Batch, needs_layers: bool) -> Output:
        """See `EncoderHead`."""
        engine = self.encoder_model.engine
        if engine is None:
            return super().run_encoder(batch, needs_layers)
        return Output(torch.from_numpy(engine.run(batch.ids.numpy(), batch.cu_seqlens.numpy())))

    def batch(self, units: Sequence[np.ndarray]) -> Batch:
        """See `EncoderHead`."""
        tokenizer = self.encoder_model.tokenizer
        return pack_sequences(list(units), tokenizer.cls_id, tokenizer.sep_id)

    def run_head(self, output: Output, batch: Batch, units: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See `EncoderHead`: (H,) of each window."""
        return list(self.encoder_model.pool_output(output, batch))


class TokenStateModel(EncoderHead):
    """The last hidden state of each token, special tokens included; of a text in several windows one window after
    another. Tokenises like the `DenseModel` that it is made of."""

    def __init__(self, dense: DenseModel) -> None:
        self.dense = dense
        self.exclusive = dense.exclusive

    def single_threaded(self) -> ServedModel:
        """See `ServedModel`."""
        dense = self.dense.single_threaded()
        if dense is self.dense:
            return self
        model = copy.copy(self)
        model.dense = dense  # type: ignore[assignment]
        return model

    def info(self) -> dict[str, Any]:
        """See `ServedModel`."""
        return self.dense.info() | {"dimensions": []}

    def tokenize(self, request: InferenceRequest) -> TokenizedRequest:
        """`inputs`: texts; `options`: truncate, prompt."""
        return self.dense.tokenize(request)

    @property
    def model(self) -> Model:
        """The dense model's."""
        return self.dense.model

    @property
    def device(self) -> torch.device:
        """The dense model's."""
        return self.dense.device

    @property
    def shareable(self) -> bool:
        """See `DenseModel`."""
        return self.dense.shareable

    @property
    def encoder(self) -> object | None:
        """See `DenseModel`."""
        return self.dense.encoder

    def run_encoder(self, batch: Batch, needs_layers: bool) -> Output:
        """See `EncoderHead`."""
        return self.dense.run_encoder(batch, needs_layers)

    def batch(self, units: Sequence[np.ndarray]) -> Batch:
        """See `EncoderHead`."""
        return self.dense.batch(units)

    def run(self, units: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(n, H) of each window."""
        encoder, batch = self.dense.encoder_model, self.batch(units)
        if encoder.engine is not None:
            states = encoder.engine.run(batch.ids.numpy(), batch.cu_seqlens.numpy())
            return np.split(states, batch.cu_seqlens.numpy()[1:-1])
        with torch.inference_mode():
            batch = batch.to(encoder.device)
            return self.run_head(encoder.model.encoder(batch), batch, units)

    def run_head(self, output: Output, batch: Batch, units: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See `EncoderHead`: (n, H) of each window."""
        return np.split(output.hidden.float().cpu().numpy(), batch.cu_seqlens.cpu().numpy()[1:-1])

    def finish(self, context: VectorContext, outputs: Sequence[np.ndarray]) -> InferenceResult:
        """`vectors` (T, H), those of text i ending at `ends[i]`."""
        vectors = np.concatenate(outputs)
        check_finite(vectors)
        arrays = {"vectors": vectors, "ends": np.cumsum(context.tokens)}
        return InferenceResult({}, arrays, context.tokens, context.windows.dropped.tolist())
