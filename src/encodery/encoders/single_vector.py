"""What encoders with one vector per text share: windows, batches, post-processing and streams.

Texts are tokenised, divided into windows that the encoder can read, encoded in batches of `batch_tokens`,
post-processed and put back into their order. A text's vector does not depend on the other texts of a call, beyond
rounding.
Shapes: N texts, W windows of them, B windows of a batch, H width of the model, K dimension after post-processing.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from encodery.base.errors import InputError, SettingsError
from encodery.encoders import BATCH_TOKENS, Role, parallel
from encodery.encoders.embeddings import DenseEmbeddings
from encodery.encoders.model_encoder import ModelEncoder
from encodery.encoders.postprocessing import PostProcessing
from encodery.encoders.text_windows import TextWindows, check_texts, token_offsets
from encodery.model.network import Model
from encodery.tokens.windows import batches_by_length, parse_truncate

if TYPE_CHECKING:
    from typing import Self

    from encodery.runtimes.kind import Runtime
    from encodery.tokens.tokenizer import Tokenizer

TEXTS_AT_ONCE = 4096  # Texts that `stream` holds at a time.
CHARACTERS_AT_ONCE = 8 << 20


class SingleVectorEncoder(ModelEncoder):
    """A model with its tokenizer that gives one vector per text. Raises `SettingsError` for a `max_length` that leaves
    no room for a token."""

    kind: ClassVar[str] = "dense"

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        max_length: int | None,
        postprocessing: PostProcessing,
        device: torch.device | str | None,
    ) -> None:
        super().__init__(model, tokenizer, max_length, device)
        self.postprocessing = postprocessing
        if self.max_length < 3:
            raise SettingsError(
                f"max_length = {self.max_length}: leaves no room for a token between the two special tokens; "
                "at least 3 is needed."
            )

    @abc.abstractmethod
    def encode_windows(self, sequences: list[np.ndarray]) -> np.ndarray:
        """Vectors (B, H), before post-processing, of windows without their special tokens."""

    @abc.abstractmethod
    def with_runtime(self, runtime: Runtime) -> Self:
        """The same encoder with its model run by `runtime`. Raises `SettingsError` if the runtime cannot do that."""

    @property
    def runtime_name(self) -> str:
        """The name of the runtime that computes the embeddings."""
        return "torch"

    @property
    def dimension(self) -> int:
        """K, after post-processing."""
        return self.postprocessing.output_dim(self.model.settings.width)

    def token_offsets(self, text: str) -> np.ndarray:
        """The characters [begin, end) (n, 2) int64 of each token of a text, without special tokens."""
        return token_offsets(self.tokenizer, text)

    def encode(
        self,
        texts: Sequence[str],
        truncate: str = "error",
        batch_tokens: int = BATCH_TOKENS,
        prompt: str | None = None,
        progress: Callable[[int], None] | None = None,
        *,
        role: Role | None = None,
    ) -> DenseEmbeddings:
        """See `TextEncoder`."""
        check_texts(texts)
        return self._encode(texts, truncate, batch_tokens, self.prompt_text(prompt, role), progress)

    def stream(
        self,
        texts: Iterable[str],
        truncate: str = "error",
        batch_tokens: int = BATCH_TOKENS,
        prompt: str | None = None,
    ) -> Iterator[DenseEmbeddings]:
        """`encode` for an unbounded stream of texts: the embeddings in order, a few thousand texts at a time."""
        policy, before = parse_truncate(truncate), self.prompt_text(prompt)
        first_index = 0
        for part in _parts(texts):
            yield self._encode(part, policy, batch_tokens, before, None, first_index)
            first_index += len(part)

    def _encode(
        self,
        texts: Sequence[str],
        truncate: str,
        batch_tokens: int,
        prompt: str,
        progress: Callable[[int], None] | None,
        first_index: int = 0,
    ) -> DenseEmbeddings:
        if batch_tokens < 1:
            raise InputError(f"batch_tokens = {batch_tokens}: must be at least 1.")
        windows = TextWindows.from_texts(texts, self.tokenizer, self.max_content_tokens, truncate, prompt, first_index)
        vectors = np.zeros((len(windows), self.model.settings.width), np.float32)
        for numbers, of_batch in self.encode_batches(windows, batch_tokens):
            vectors[numbers] = of_batch
            if progress is not None:
                progress(len(numbers))
        return DenseEmbeddings(self.postprocessing.apply(windows.average(vectors)), windows.tokens, windows.dropped)

    def encode_batches(self, windows: TextWindows, batch_tokens: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The numbers (B,) of the windows of each batch, and their vectors (B, H)."""
        batches = list(batches_by_length(windows.lengths, parallel.batch_budget(batch_tokens, self.device)))
        results = parallel.map_batches(
            lambda numbers: self.encode_windows([windows.ids[n] for n in numbers]), batches, self.device
        )
        return zip(batches, results, strict=True)


def _parts(texts: Iterable[str]) -> Iterator[list[str]]:
    """Lists of at most `TEXTS_AT_ONCE` texts and about `CHARACTERS_AT_ONCE` characters."""
    part: list[str] = []
    characters = 0
    for text in texts:
        part.append(text)
        characters += len(text)
        if len(part) == TEXTS_AT_ONCE or characters >= CHARACTERS_AT_ONCE:
            yield part
            part, characters = [], 0
    if part:
        yield part
