"""What `encodery.load` returns: a model with its tokenizer, and everything that can be asked of the two.

Shapes: N texts, K width of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from encodery.base.errors import InputError
from encodery.encoders import BATCH_TOKENS
from encodery.encoders.dense import DenseEncoder
from encodery.encoders.embeddings import DenseEmbeddings
from encodery.encoders.exported import parse_runtime
from encodery.generate import GeneratedText
from encodery.generate.fill import FillMask
from encodery.model.load import LoadedModel, load_model

if TYPE_CHECKING:
    import torch

    from encodery.model.network import Model
    from encodery.search.searcher import Searcher
    from encodery.tokens.tokenizer import Tokenizer


class TextModel:
    """A loaded model. `encode` and `similarity` need no head, `fill` needs the masked-language-model head."""

    def __init__(
        self, loaded: LoadedModel, device: torch.device | str | None = None, runtime: str | None = None
    ) -> None:
        self.loaded = loaded
        self._device = device
        self._runtime = runtime

    @property
    def path(self) -> Path:
        """Where it was loaded from."""
        return self.loaded.path

    @property
    def model(self) -> Model:
        """The network: `.encoder`, `.heads`, `.settings`."""
        return self.loaded.model

    @property
    def tokenizer(self) -> Tokenizer:
        """Text to ids and back."""
        return self.loaded.tokenizer

    @property
    def settings(self) -> dict[str, Any]:
        """What is stored with the model: recipe, embed, labels, where known."""
        return self.loaded.settings

    @cached_property
    def encoder(self) -> DenseEncoder:
        """The encoder of texts, as the stored settings have it (mean pooling and unit length by default)."""
        if self._runtime is None:
            return DenseEncoder.from_loaded(self.loaded, self._device)
        return DenseEncoder.from_loaded(self.loaded, self._device or "cpu").with_runtime(parse_runtime(self._runtime))

    @property
    def dimension(self) -> int:
        """Width K of a vector."""
        return self.encoder.dimension

    def encode(
        self,
        texts: Sequence[str],
        truncate: str = "error",
        batch_tokens: int = BATCH_TOKENS,
        prompt: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Vectors (N, K) float32 in the order of the texts.

        `truncate` says what happens to a text longer than the model takes: error, right, left or chunk;
        `embedder.encode` also tells how many tokens were dropped. `prompt` names a stored prompt.
        """
        return self.encoder.encode(texts, truncate, batch_tokens, prompt, progress).vectors

    def stream(
        self, texts: Iterable[str], truncate: str = "error", prompt: str | None = None
    ) -> Iterator[DenseEmbeddings]:
        """Vectors of texts without end, a few thousand at a time, in order."""
        return self.encoder.stream(texts, truncate, prompt=prompt)

    def similarity(self, left: Sequence[str] | str, right: Sequence[str] | str, truncate: str = "error") -> np.ndarray:
        """Cosines (N, M) of N texts with M texts."""
        one, other = ([texts] if isinstance(texts, str) else list(texts) for texts in (left, right))
        vectors = self.encode([*one, *other], truncate)
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        cosines: np.ndarray = vectors[: len(one)] @ vectors[len(one) :].T
        return cosines

    def fill(self, text: str, top: int = 5, one_by_one: bool = False) -> GeneratedText:
        """The most probable tokens at each [MASK] of a text; see `generate.fill`."""
        if not isinstance(text, str):
            raise InputError(f"One text is needed, not {type(text).__name__}.")
        return FillMask(top_k=top, one_by_one=one_by_one).generate(self.model, self.tokenizer, [text])[0]

    def search(self, index: str | Path) -> Searcher:
        """An index opened for queries with this model. Raises `ArtifactError` if it was made with another."""
        from encodery.search.searcher import Searcher

        return Searcher.open(index, self.encoder)

    def __repr__(self) -> str:
        settings = self.model.settings
        return f"<encodery model {self.path}: {settings.depth} × {settings.width}, vocabulary {settings.vocab_size:,}>"


def load(
    source: str | Path,
    device: torch.device | str | None = None,
    verify: bool = True,
    runtime: str | None = None,
) -> TextModel:
    """A model from a model folder, a run, a Hugging Face or sentence-transformers folder, or a hub name.

    `device` is the machine's own if not given; `verify` checks files and replays golden vectors.
    `runtime` runs `encode` elsewhere than in PyTorch: a name such as "packed_int8", or the folder of an export to
    onnx or openvino.
    """
    return TextModel(load_model(source, verify=verify), device, runtime)
