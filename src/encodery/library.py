"""The library's main class: a loaded model that encodes texts, fills masks and searches.

Shapes: N and M texts, K dimensions of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from encodery.base.errors import InputError, SettingsError
from encodery.encoders import BATCH_TOKENS, DOCUMENT, QUERY
from encodery.encoders.embeddings import DenseEmbeddings
from encodery.encoders.exported import parse_runtime
from encodery.encoders.loading import load_dense, load_encoder
from encodery.encoders.model_encoder import ModelEncoder
from encodery.encoders.single_vector import SingleVectorEncoder
from encodery.generate import GeneratedText
from encodery.generate.fill import FillMask
from encodery.model.load import LoadedModel, load_model

if TYPE_CHECKING:
    import torch

    from encodery.model.network import Model
    from encodery.search.searcher import Searcher
    from encodery.tokens.tokenizer import Tokenizer


class TextModel:
    """A loaded model with its tokenizer; `encodery.load` returns it.

    `encode` and `similarity` work for every model, `fill` needs a masked-language-model head.

        model = encodery.load("run")
        model.encode(["The captain opened the letter."])  # (1, K)
    """

    def __init__(
        self, loaded: LoadedModel, device: torch.device | str | None = None, runtime: str | None = None
    ) -> None:
        self.loaded = loaded
        self._device = device
        self._runtime = runtime

    @property
    def path(self) -> Path:
        """The folder that the model was loaded from."""
        return self.loaded.path

    @property
    def model(self) -> Model:
        """The network, a torch module with `.encoder`, `.heads` and `.settings`."""
        return self.loaded.model

    @property
    def tokenizer(self) -> Tokenizer:
        """Converts text to ids and back."""
        return self.loaded.tokenizer

    @property
    def settings(self) -> dict[str, Any]:
        """What is stored with the model: the recipe, the settings of its embeddings, the labels of its task."""
        return self.loaded.settings

    @cached_property
    def encoder(self) -> ModelEncoder:
        """The model's text encoder: dense, static, sparse or multi-vector, by its stored settings; dense with mean
        pooling and unit length if there are none."""
        if self._runtime is None:
            return load_encoder(self.loaded, self._device)
        return load_dense(self.loaded, self._device, parse_runtime(self._runtime))

    @property
    def dimension(self) -> int:
        """Dimensions K of an embedding."""
        return self.encoder.dimension

    def encode(
        self,
        texts: Sequence[str],
        truncate: str = "error",
        batch_tokens: int = BATCH_TOKENS,
        prompt: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Return embeddings (N, K) float32 in the order of the texts.

        Args:
            texts: N texts.
            truncate: what happens to a text that is too long: error, right, left or chunk.
            batch_tokens: tokens computed at once.
            prompt: name of a stored prompt.
            progress: is called with the number of windows of each batch.

        `encoder.encode` also gives the tokens that were read and dropped. Raises `SettingsError` for a model of sparse
        or multi-vector embeddings, which `encoder.encode` gives.
        """
        return self._dense().encode(texts, truncate, batch_tokens, prompt, progress).vectors

    def stream(
        self, texts: Iterable[str], truncate: str = "error", prompt: str | None = None
    ) -> Iterator[DenseEmbeddings]:
        """Yield the embeddings of any number of texts in order, a few thousand at a time."""
        return self._dense().stream(texts, truncate, prompt=prompt)

    def similarity(self, left: Sequence[str] | str, right: Sequence[str] | str, truncate: str = "error") -> np.ndarray:
        """Return the similarities (N, M) of N texts with M texts: cosines, or what sparse and multi-vector models are
        trained to be compared by, with `left` as queries and `right` as documents."""
        queries, documents = ([texts] if isinstance(texts, str) else list(texts) for texts in (left, right))
        encoder = self.encoder
        if not isinstance(encoder, SingleVectorEncoder):
            encoded = encoder.encode(queries, truncate, role=QUERY), encoder.encode(documents, truncate, role=DOCUMENT)
            return encoder.similarity(*encoded)
        vectors = self.encode([*queries, *documents], truncate)
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        cosines: np.ndarray = vectors[: len(queries)] @ vectors[len(queries) :].T
        return cosines

    def fill(self, text: str, top: int = 5, one_by_one: bool = False) -> GeneratedText:
        """Return the most probable tokens at each [MASK] of a text (`generate.fill`)."""
        if not isinstance(text, str):
            raise InputError(f"One text is needed, not {type(text).__name__}.")
        return FillMask(top_k=top, one_by_one=one_by_one).generate(self.model, self.tokenizer, [text])[0]

    def search(self, index: str | Path) -> Searcher:
        """Open an index for queries with this model. Raises `ArtifactError` if it was made with another model."""
        from encodery.search.searcher import Searcher

        return Searcher.open(index, self.encoder)

    def _dense(self) -> SingleVectorEncoder:
        """The encoder, which must give one vector per text."""
        encoder = self.encoder
        if not isinstance(encoder, SingleVectorEncoder):
            raise SettingsError(f"{self.path}: gives {encoder.kind} embeddings; use model.encoder.encode(texts).")
        return encoder

    def __repr__(self) -> str:
        settings = self.model.settings
        return f"<encodery model {self.path}: {settings.depth} × {settings.width}, vocabulary {settings.vocab_size:,}>"


def load(
    source: str | Path,
    device: torch.device | str | None = None,
    verify: bool = True,
    runtime: str | None = None,
) -> TextModel:
    """Load a model.

    Args:
        source: a run, a model folder, a Hugging Face or sentence-transformers folder, or a name on the hub.
        device: where the model runs; None for the machine's own accelerator, or its CPU.
        verify: check the files and compute the golden vectors again.
        runtime: runs `encode` elsewhere than in PyTorch: a name such as "packed_int8", or the folder of an export to
            onnx or openvino.
    """
    return TextModel(load_model(source, verify=verify), device, runtime)
