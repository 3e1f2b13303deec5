"""Lanes of an embedding model: a vector for each text, or the state of each of its tokens.

What is done here is what `Embedder.encode` does, cut into the engine's three stages: a vector equals the library's, to
the bit where the runtime's do not depend on a batch.
Shapes: N texts, W windows of them, B windows of a batch, H width of the model, K after finishing.
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
from encodery.serve.served_model import InferenceRequest, InferenceResult, ServedModel, TokenizedRequest, check_finite
from encodery.serve.shared_encoder import EncoderHead
from encodery.tokens.windows import parse_truncate, split_into_windows


@dataclass(frozen=True, eq=False)
class _Told:
    """`owner` (W,) text of each window, `lengths` (W,) with special tokens, `dropped` (N,) tokens of each text."""

    owner: np.ndarray
    lengths: np.ndarray
    dropped: np.ndarray
    finishing: PostProcessing
    dimensions: int | None

    @property
    def tokens(self) -> list[int]:
        """(N,) read of each text."""
        found = np.bincount(self.owner, weights=self.lengths, minlength=len(self.dropped))
        return [int(count) for count in found]


class DenseModel(EncoderHead):
    """One vector a text. `dims`: the widths a vector may be cut to, where the model was trained for that; `beside`: the
    same embedder on a runtime of one thread, where it is on a runtime that has threads of its own."""

    def __init__(
        self,
        embedder: DenseEncoder,
        dims: Sequence[int] = (),
        truncate: str = "error",
        beside: DenseEncoder | None = None,
    ) -> None:
        self.encoder_model, self.dims, self.truncate, self.single_thread_encoder = (
            embedder,
            tuple(dims),
            parse_truncate(truncate),
            beside,
        )
        self.exclusive = embedder.engine is not None and beside is None
        self.needs_layers = embedder.pooling.keep_layers

    def single_threaded(self) -> ServedModel:
        """On the runtime of one thread."""
        if self.single_thread_encoder is None:
            return self
        found = copy.copy(self)
        found.encoder_model = self.single_thread_encoder
        return found

    def info(self) -> dict[str, Any]:
        found = self.encoder_model
        return {
            "width": found.dimension,
            "max_length": found.max_length,
            "pooling": name_of(found.settings.pooling),
            "postprocess": [name_of(step) for step in found.settings.postprocess],
            "prompts": found.settings.prompts,
            "dimensions": list(self.dims),
            "truncate": self.truncate,
            "runtime": found.runtime_name,
        }

    def tokenize(self, request: InferenceRequest) -> TokenizedRequest:
        """`inputs`: texts, or ids without special tokens; `options`: truncate, prompt, dimensions, normalize."""
        options = request.options
        sequences = self._sequences(request)
        found, dropped = split_into_windows(
            sequences, self.encoder_model.max_content_tokens, parse_truncate(options.get("truncate") or self.truncate)
        )
        lengths = np.array([len(window.ids) + 2 for window in found], np.int64)
        owner = np.array([window.text for window in found], np.int64)
        told = _Told(owner, lengths, dropped, self._finishing(options.get("normalize")), options.get("dimensions"))
        self._check_dimensions(told.dimensions)
        return TokenizedRequest([window.ids for window in found], lengths.tolist(), told)

    @property
    def model(self) -> Model:
        """The embedder's."""
        return self.encoder_model.model

    @property
    def device(self) -> torch.device:
        """The embedder's."""
        return self.encoder_model.device

    @property
    def shareable(self) -> bool:
        """Not on a runtime of its own."""
        return self.encoder_model.engine is None

    @property
    def encoder(self) -> object | None:
        """See `Headed`: the runtime's, where it is on one."""
        return self.encoder_model.engine or self.model.encoder

    def run_encoder(self, batch: Batch, layers: bool) -> Output:
        """See `Headed`."""
        engine = self.encoder_model.engine
        if engine is None:
            return super().run_encoder(batch, layers)
        return Output(torch.from_numpy(engine.run(batch.ids.numpy(), batch.cu_seqlens.numpy())))

    def batch(self, units: Sequence[np.ndarray]) -> Batch:
        """See `Headed`."""
        return pack_sequences(list(units), self.encoder_model.tokenizer.cls_id, self.encoder_model.tokenizer.sep_id)

    def run_head(self, output: Output, batch: Batch, units: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See `Headed`."""
        return list(self.encoder_model.pool_output(output, batch))

    def run(self, units: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(H,) of each window."""
        with torch.inference_mode():
            return list(self.encoder_model.encode_windows(list(units)))

    def finish(self, context: _Told, outputs: Sequence[np.ndarray]) -> InferenceResult:
        """`vectors` (N, K)."""
        vectors = TextWindows([], context.owner, context.lengths, context.dropped).average(np.stack(outputs))
        vectors = context.finishing.apply(vectors)
        if context.dimensions is not None and context.dimensions < vectors.shape[1]:
            unit = Normalise() in context.finishing.steps
            vectors = np.ascontiguousarray(vectors[:, : context.dimensions])
            vectors = Normalise().apply(vectors, {}) if unit else vectors
        check_finite(vectors)
        return InferenceResult({}, {"vectors": vectors}, context.tokens, context.dropped.tolist())

    def _sequences(self, asked: InferenceRequest) -> list[np.ndarray]:
        """Ids of each text, without special tokens."""
        embedder = self.encoder_model
        before = embedder.settings.prompt(asked.options.get("prompt"))
        if "ids" not in asked.inputs:
            texts = asked.inputs["texts"]
            return list(embedder.tokenizer.encode_batch([before + text for text in texts] if before else list(texts)))
        ahead = embedder.tokenizer.encode(before) if before else np.zeros(0, np.uint32)
        return [np.concatenate([ahead, self._ids(number, ids)]) for number, ids in enumerate(asked.inputs["ids"])]

    def _ids(self, number: int, ids: Sequence[int]) -> np.ndarray:
        tokenizer = self.encoder_model.tokenizer
        size = min(tokenizer.used_size, self.encoder_model.model.settings.vocab_size)
        wrong = next((value for value in ids if not 0 <= value < size), None)
        if wrong is not None:
            raise ApiError(
                400, "invalid_token", f"Input {number} has token {wrong}; ids lie in 0 … {size - 1}.", "input"
            )
        whole = len(ids) > 1 and ids[0] == tokenizer.cls_id and ids[-1] == tokenizer.sep_id
        return np.array(ids[1:-1] if whole else ids, np.uint32)

    def _finishing(self, normalize: bool | None) -> PostProcessing:
        """The model's own, or with unit length as asked."""
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
        some = ", ".join(map(str, sorted({*self.dims, self.encoder_model.dimension})))
        why = "" if self.dims else " The model was not trained for shorter ones (loss `matryoshka`)."
        raise ApiError(
            400, "invalid_dimensions", f"dimensions = {dimensions}: this model gives {some}.{why}", "dimensions"
        )


class TokenStateModel(DenseModel):
    """The last hidden state of each token, special ones included; of a text in windows, one window after another."""

    def run(self, units: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(n, H) of each window."""
        embedder, batch = self.encoder_model, self.batch(units)
        if embedder.engine is not None:
            found = embedder.engine.run(batch.ids.numpy(), batch.cu_seqlens.numpy())
            return np.split(found, batch.cu_seqlens.numpy()[1:-1])
        with torch.inference_mode():
            batch = batch.to(embedder.device)
            return self.run_head(embedder.model.encoder(batch), batch, units)

    def run_head(self, output: Output, batch: Batch, units: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See `Headed`."""
        return np.split(output.hidden.float().cpu().numpy(), batch.cu_seqlens.cpu().numpy()[1:-1])

    def finish(self, context: _Told, outputs: Sequence[np.ndarray]) -> InferenceResult:
        """`rows` (T, H), those of text i ending at `ends[i]`."""
        rows = np.concatenate(outputs)
        check_finite(rows)
        return InferenceResult(
            {}, {"rows": rows, "ends": np.cumsum(context.tokens)}, context.tokens, context.dropped.tolist()
        )
