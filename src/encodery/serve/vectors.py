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
from encodery.embed.embedder import Embedder, averaged, packed
from encodery.embed.finish.normalise import Normalise
from encodery.embed.finishing import Finishing
from encodery.model.network import Model
from encodery.model.shape import Batch, Output
from encodery.serve.lane import Answer, Asked, Lane, Reading, finite
from encodery.serve.refusal import Refusal
from encodery.serve.stem import Headed
from encodery.tokens.windows import checked, windows


@dataclass(frozen=True, eq=False)
class _Told:
    """`owner` (W,) text of each window, `lengths` (W,) with special tokens, `dropped` (N,) tokens of each text."""

    owner: np.ndarray
    lengths: np.ndarray
    dropped: np.ndarray
    finishing: Finishing
    dimensions: int | None

    @property
    def tokens(self) -> list[int]:
        """(N,) read of each text."""
        found = np.bincount(self.owner, weights=self.lengths, minlength=len(self.dropped))
        return [int(count) for count in found]


class Vectors(Headed):
    """One vector a text. `dims`: the widths a vector may be cut to, where the model was trained for that; `beside`: the
    same embedder on a runtime of one thread, where it is on a runtime that has threads of its own."""

    def __init__(
        self, embedder: Embedder, dims: Sequence[int] = (), truncate: str = "error", beside: Embedder | None = None
    ) -> None:
        self.embedder, self.dims, self.truncate, self.beside = embedder, tuple(dims), checked(truncate), beside
        self.apart = embedder.engine is not None and beside is None
        self.layers = embedder.pooling.keep_layers

    def narrow(self) -> Lane:
        """On the runtime of one thread."""
        if self.beside is None:
            return self
        found = copy.copy(self)
        found.embedder = self.beside
        return found

    def facts(self) -> dict[str, Any]:
        found = self.embedder
        return {
            "width": found.width,
            "max_length": found.max_length,
            "pooling": name_of(found.settings.pooling),
            "finish": [name_of(step) for step in found.settings.finish],
            "prompts": found.settings.prompts,
            "dimensions": list(self.dims),
            "truncate": self.truncate,
            "runtime": found.ran_by,
        }

    def read(self, asked: Asked) -> Reading:
        """`inputs`: texts, or ids without special tokens; `options`: truncate, prompt, dimensions, normalize."""
        options = asked.options
        sequences = self._sequences(asked)
        found, dropped = windows(sequences, self.embedder.longest, checked(options.get("truncate") or self.truncate))
        lengths = np.array([len(window.ids) + 2 for window in found], np.int64)
        owner = np.array([window.text for window in found], np.int64)
        told = _Told(owner, lengths, dropped, self._finishing(options.get("normalize")), options.get("dimensions"))
        self._check_dimensions(told.dimensions)
        return Reading([window.ids for window in found], lengths.tolist(), told)

    @property
    def model(self) -> Model:
        """The embedder's."""
        return self.embedder.model

    @property
    def device(self) -> torch.device:
        """The embedder's."""
        return self.embedder.device

    @property
    def joins(self) -> bool:
        """Not on a runtime of its own."""
        return self.embedder.engine is None

    @property
    def encoder(self) -> object | None:
        """See `Headed`: the runtime's, where it is on one."""
        return self.embedder.engine or self.model.encoder

    def encoded(self, batch: Batch, layers: bool) -> Output:
        """See `Headed`."""
        engine = self.embedder.engine
        if engine is None:
            return super().encoded(batch, layers)
        return Output(torch.from_numpy(engine.run(batch.ids.numpy(), batch.cu_seqlens.numpy())))

    def batch(self, units: Sequence[np.ndarray]) -> Batch:
        """See `Headed`."""
        return packed(list(units), self.embedder.tokenizer.cls_id, self.embedder.tokenizer.sep_id)

    def head(self, output: Output, batch: Batch, units: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See `Headed`."""
        return list(self.embedder.reduced(output, batch))

    def run(self, units: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(H,) of each window."""
        with torch.inference_mode():
            return list(self.embedder.pool(list(units)))

    def finish(self, told: _Told, outputs: Sequence[np.ndarray]) -> Answer:
        """`vectors` (N, K)."""
        vectors = averaged(np.stack(outputs), told.owner, told.lengths, len(told.dropped))
        vectors = told.finishing.apply(vectors)
        if told.dimensions is not None and told.dimensions < vectors.shape[1]:
            unit = Normalise() in told.finishing.steps
            vectors = np.ascontiguousarray(vectors[:, : told.dimensions])
            vectors = Normalise().apply(vectors, {}) if unit else vectors
        finite(vectors)
        return Answer({}, {"vectors": vectors}, told.tokens, told.dropped.tolist())

    def _sequences(self, asked: Asked) -> list[np.ndarray]:
        """Ids of each text, without special tokens."""
        embedder = self.embedder
        before = embedder.settings.prompt(asked.options.get("prompt"))
        if "ids" not in asked.inputs:
            texts = asked.inputs["texts"]
            return list(embedder.tokenizer.encode_batch([before + text for text in texts] if before else list(texts)))
        ahead = embedder.tokenizer.encode(before) if before else np.zeros(0, np.uint32)
        return [np.concatenate([ahead, self._ids(number, ids)]) for number, ids in enumerate(asked.inputs["ids"])]

    def _ids(self, number: int, ids: Sequence[int]) -> np.ndarray:
        tokenizer = self.embedder.tokenizer
        size = min(tokenizer.used_size, self.embedder.model.settings.vocab)
        wrong = next((value for value in ids if not 0 <= value < size), None)
        if wrong is not None:
            raise Refusal(
                400, "invalid_token", f"Input {number} has token {wrong}; ids lie in 0 … {size - 1}.", "input"
            )
        whole = len(ids) > 1 and ids[0] == tokenizer.cls_id and ids[-1] == tokenizer.sep_id
        return np.array(ids[1:-1] if whole else ids, np.uint32)

    def _finishing(self, normalize: bool | None) -> Finishing:
        """The model's own, or with unit length as asked."""
        own = self.embedder.finishing
        if normalize is None or normalize == (Normalise() in own.steps):
            return own
        if normalize:
            return Finishing((*own.steps, Normalise()), (*own.states, {}))
        kept = [pair for pair in zip(own.steps, own.states, strict=True) if pair[0] != Normalise()]
        return Finishing(tuple(step for step, _ in kept), tuple(state for _, state in kept))

    def _check_dimensions(self, dimensions: int | None) -> None:
        if dimensions is None or dimensions == self.embedder.width or dimensions in self.dims:
            return
        some = ", ".join(map(str, sorted({*self.dims, self.embedder.width})))
        why = "" if self.dims else " The model was not trained for shorter ones (loss `matryoshka`)."
        raise Refusal(
            400, "invalid_dimensions", f"dimensions = {dimensions}: this model gives {some}.{why}", "dimensions"
        )


class TokenStates(Vectors):
    """The last hidden state of each token, special ones included; of a text in windows, one window after another."""

    def run(self, units: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(n, H) of each window."""
        embedder, batch = self.embedder, self.batch(units)
        if embedder.engine is not None:
            found = embedder.engine.run(batch.ids.numpy(), batch.cu_seqlens.numpy())
            return np.split(found, batch.cu_seqlens.numpy()[1:-1])
        with torch.inference_mode():
            batch = batch.to(embedder.device)
            return self.head(embedder.model.encoder(batch), batch, units)

    def head(self, output: Output, batch: Batch, units: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See `Headed`."""
        return np.split(output.hidden.float().cpu().numpy(), batch.cu_seqlens.cpu().numpy()[1:-1])

    def finish(self, told: _Told, outputs: Sequence[np.ndarray]) -> Answer:
        """`rows` (T, H), those of text i ending at `ends[i]`."""
        rows = np.concatenate(outputs)
        finite(rows)
        return Answer({}, {"rows": rows, "ends": np.cumsum(told.tokens)}, told.tokens, told.dropped.tolist())
