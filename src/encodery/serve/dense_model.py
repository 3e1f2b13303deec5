"""Served models of dense embeddings: a vector for each text, or the hidden state of each of its tokens.

They do what `DenseEncoder.encode` does, divided into the engine's three stages. A vector equals the library's, to the
bit if the runtime's result does not depend on the batch.
Shapes: N texts, W windows of them, B windows of a batch, H width of the model, K dimension after post-processing.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from encodery.base.parts import name_of
from encodery.encoders.dense import DenseEncoder
from encodery.encoders.packing import pack_sequences
from encodery.encoders.postprocess.normalise import Normalise
from encodery.encoders.postprocessing import PostProcessing
from encodery.encoders.text_windows import TextWindows
from encodery.model.network import Model
from encodery.model.shape import Batch, Output
from encodery.serve.api_error import ApiError
from encodery.serve.served_model import (
    InferenceRequest,
    InferenceResult,
    ServedModel,
    TokenizedRequest,
    check_finite,
)
from encodery.serve.shared_encoder import EncoderHead
from encodery.tokens.windows import parse_truncate


@dataclass(frozen=True, eq=False)
class _Context:
    """The windows of a request, the post-processing that it asks for, and the dimensions to keep."""

    windows: TextWindows
    postprocessing: PostProcessing
    dimensions: int | None

    @property
    def tokens(self) -> list[int]:
        """(N,) read of each text."""
        return [int(count) for count in self.windows.tokens]


class DenseModel(EncoderHead):
    """One vector for each text. `dims`: dimensions that a vector may be truncated to, if the model was trained for
    that; `single_thread_encoder`: the same encoder on a runtime of one thread, if its runtime has its own threads."""

    def __init__(
        self,
        encoder_model: DenseEncoder,
        dims: Sequence[int] = (),
        truncate: str = "error",
        single_thread_encoder: DenseEncoder | None = None,
    ) -> None:
        self.encoder_model, self.dims, self.truncate = encoder_model, tuple(dims), parse_truncate(truncate)
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
        encoder = self.encoder_model
        return {
            "dimension": encoder.dimension,
            "max_length": encoder.max_length,
            "pooling": name_of(encoder.settings.pooling),
            "postprocess": [name_of(step) for step in encoder.settings.postprocess],
            "prompts": encoder.settings.prompts,
            "dimensions": list(self.dims),
            "truncate": self.truncate,
            "runtime": encoder.runtime_name,
        }

    def tokenize(self, request: InferenceRequest) -> TokenizedRequest:
        """`inputs`: texts, or ids without special tokens; `options`: truncate, prompt, dimensions, normalize."""
        options = request.options
        self._check_dimensions(options.get("dimensions"))
        truncate = options.get("truncate") or self.truncate
        windows = TextWindows.from_ids(self._sequences(request), self.encoder_model.max_content_tokens, truncate)
        context = _Context(windows, self._postprocessing(options.get("normalize")), options.get("dimensions"))
        return TokenizedRequest(windows.ids, windows.lengths.tolist(), context)

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

    def run(self, units: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(H,) of each window."""
        with torch.inference_mode():
            return list(self.encoder_model.encode_windows(list(units)))

    def finish(self, context: _Context, outputs: Sequence[np.ndarray]) -> InferenceResult:
        """`vectors` (N, K)."""
        vectors = context.postprocessing.apply(context.windows.average(np.stack(outputs)))
        if context.dimensions is not None and context.dimensions < vectors.shape[1]:
            vectors = np.ascontiguousarray(vectors[:, : context.dimensions])
            if Normalise() in context.postprocessing.steps:
                vectors = Normalise().apply(vectors, {})
        check_finite(vectors)
        return InferenceResult({}, {"vectors": vectors}, context.tokens, context.windows.dropped.tolist())

    def _sequences(self, request: InferenceRequest) -> list[np.ndarray]:
        """Ids of each text, without special tokens."""
        encoder = self.encoder_model
        prompt = encoder.prompt_text(request.options.get("prompt"))
        if "ids" not in request.inputs:
            texts = request.inputs["texts"]
            return list(encoder.tokenizer.encode_batch([prompt + text for text in texts] if prompt else list(texts)))
        prompt_ids = encoder.tokenizer.encode(prompt) if prompt else np.zeros(0, np.uint32)
        return [np.concatenate([prompt_ids, self._ids(i, ids)]) for i, ids in enumerate(request.inputs["ids"])]

    def _ids(self, index: int, ids: Sequence[int]) -> np.ndarray:
        """Checked ids of an input, without the special tokens around them."""
        tokenizer = self.encoder_model.tokenizer
        size = min(tokenizer.used_size, self.encoder_model.model.settings.vocab_size)
        invalid = next((value for value in ids if not 0 <= value < size), None)
        if invalid is not None:
            message = f"Input {index} has token {invalid}; token ids of this model are 0 to {size - 1}."
            raise ApiError(400, "invalid_token", message, "input")
        has_special = len(ids) > 1 and ids[0] == tokenizer.cls_id and ids[-1] == tokenizer.sep_id
        return np.array(ids[1:-1] if has_special else ids, np.uint32)

    def _postprocessing(self, normalize: bool | None) -> PostProcessing:
        """The model's, with or without unit length if the request asks for that."""
        own = self.encoder_model.postprocessing
        if normalize is None or normalize == (Normalise() in own.steps):
            return own
        if normalize:
            return PostProcessing((*own.steps, Normalise()), (*own.states, {}))
        kept = [pair for pair in zip(own.steps, own.states, strict=True) if pair[0] != Normalise()]
        return PostProcessing(tuple(step for step, _ in kept), tuple(state for _, state in kept))

    def _check_dimensions(self, dimensions: int | None) -> None:
        if dimensions is None or dimensions == self.encoder_model.dimension or dimensions in self.dims:
            return
        allowed = ", ".join(map(str, sorted({*self.dims, self.encoder_model.dimension})))
        reason = "" if self.dims else " It was not trained for shorter vectors (loss `matryoshka`)."
        message = f"dimensions = {dimensions}: this model gives {allowed}.{reason}"
        raise ApiError(400, "invalid_dimensions", message, "dimensions")


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

    def finish(self, context: _Context, outputs: Sequence[np.ndarray]) -> InferenceResult:
        """`vectors` (T, H), those of text i ending at `ends[i]`."""
        vectors = np.concatenate(outputs)
        check_finite(vectors)
        arrays = {"vectors": vectors, "ends": np.cumsum(context.tokens)}
        return InferenceResult({}, arrays, context.tokens, context.windows.dropped.tolist())
