"""The stages of served models with one vector for each text, whatever computes it.

They do what `SingleVectorEncoder.encode` does, divided into the engine's three stages. A vector equals the library's,
to the bit if the runtime's result does not depend on the batch.
Shapes: N texts, W windows of them, B windows of a batch, H width of the model, K dimension after post-processing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from encodery.base.parts import name_of
from encodery.encoders.postprocess.normalise import Normalise
from encodery.encoders.postprocessing import PostProcessing
from encodery.encoders.single_vector import SingleVectorEncoder
from encodery.encoders.text_windows import TextWindows
from encodery.serve.api_error import ApiError
from encodery.serve.served_model import (
    InferenceRequest,
    InferenceResult,
    ServedModel,
    TokenizedRequest,
    check_finite,
)
from encodery.tokens.windows import parse_truncate


@dataclass(frozen=True, eq=False)
class VectorContext:
    """The windows of a request, the post-processing that it asks for, and the dimensions to keep."""

    windows: TextWindows
    postprocessing: PostProcessing
    dimensions: int | None

    @property
    def tokens(self) -> list[int]:
        """(N,) read of each text."""
        return [int(count) for count in self.windows.tokens]


class VectorModel(ServedModel):
    """One vector for each text. Abstract. `dims`: dimensions that a vector may be truncated to, if the model was
    trained for that; `truncate`: what happens to texts that are too long, unless a request says so."""

    def __init__(self, encoder_model: SingleVectorEncoder, dims: Sequence[int], truncate: str) -> None:
        self.encoder_model, self.dims, self.truncate = encoder_model, tuple(dims), parse_truncate(truncate)

    def info(self) -> dict[str, Any]:
        """See `ServedModel`."""
        encoder = self.encoder_model
        return {
            "dimension": encoder.dimension,
            "max_length": encoder.max_length,
            "postprocess": [name_of(step) for step in encoder.postprocessing.steps],
            "prompts": dict(encoder.prompts),
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
        context = VectorContext(windows, self._postprocessing(options.get("normalize")), options.get("dimensions"))
        return TokenizedRequest(windows.ids, windows.lengths.tolist(), context)

    def run(self, units: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(H,) of each window."""
        with torch.inference_mode():
            return list(self.encoder_model.encode_windows(list(units)))

    def finish(self, context: VectorContext, outputs: Sequence[np.ndarray]) -> InferenceResult:
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
            message = (
                f"Input {index} has token {invalid}; token ids of this model are 0 to {size - 1}. "
                "Ids of another tokenizer cannot be used: send texts."
            )
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
