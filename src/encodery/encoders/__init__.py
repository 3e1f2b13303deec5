"""Text encoders: texts to embeddings of one kind. This file states the contract; each part is a module of the folder.

`dense` gives one vector per text from hidden states and `static` one from token embeddings alone, `sparse` a weight per
term of the vocabulary, `multi_vector` one vector per token, and `exported` dense vectors from an export, without
PyTorch. `loading.load_encoder` opens the encoder of a model.
Shapes: N texts, Q queries, D documents, K dimension of a vector.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from encodery.encoders.prompts import find_prompt

if TYPE_CHECKING:
    from encodery.encoders.embeddings import TextEmbeddings
    from encodery.runtimes.kind import Runtime
    from encodery.tokens.tokenizer import Tokenizer

Role = Literal["query", "document"]
QUERY: Role = "query"
DOCUMENT: Role = "document"
BATCH_TOKENS = 2048  # Tokens computed at once where the caller does not say.


class TextEncoder(abc.ABC):
    """Encodes texts. `kind` of the embeddings: "dense", "sparse" or "multi_vector"; `symmetric`: queries and documents
    are encoded alike, apart from their prompts; `max_length`: tokens of a sequence, special tokens included."""

    kind: ClassVar[str]
    symmetric: ClassVar[bool] = True
    tokenizer: Tokenizer
    max_length: int

    @property
    @abc.abstractmethod
    def prompts(self) -> Mapping[str, str]:
        """Name -> the text that is put before every text encoded under that name."""

    @property
    @abc.abstractmethod
    def dimension(self) -> int:
        """K: of a text's or a token's vector, or the size of the vocabulary for sparse embeddings."""

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Differs if any text could get another embedding: over weights, tokenizer, settings and runtime."""

    @property
    def model_fingerprint(self) -> str:
        """The fingerprint of the model alone, whatever runtime is used."""
        return self.fingerprint

    @property
    def runtime(self) -> Runtime | None:
        """What runs the model; None for the model itself."""
        return None

    @property
    def max_content_tokens(self) -> int:
        """Tokens of a text that fit into one sequence, special tokens not counted."""
        return self.max_length - 2

    @abc.abstractmethod
    def encode(
        self,
        texts: Sequence[str],
        truncate: str = "error",
        batch_tokens: int = BATCH_TOKENS,
        prompt: str | None = None,
        progress: Callable[[int], None] | None = None,
        *,
        role: Role | None = None,
    ) -> TextEmbeddings:
        """The embeddings (N) of texts in their order; empty texts are allowed. `truncate`: error, right, left or chunk
        (`tokens/windows.py`); `batch_tokens`: computed at once; `prompt`: the name of a stored prompt; `role`: puts the
        prompt of that name before the texts if one is stored; `progress`: gets the number of windows of each batch.

        Raises `InputError` for a text that is too long under "error", an unknown prompt, and what is no list."""

    def similarity(self, queries: TextEmbeddings, documents: TextEmbeddings) -> np.ndarray:
        """The scores (Q, D) of every query with every document, as the model was trained to be compared."""
        return queries.similarity(documents)

    def prompt_text(self, prompt: str | None, role: Role | None = None) -> str:
        """The text that `encode` puts before every text. Raises `InputError` with the nearest name."""
        if prompt is None or (not self.symmetric and prompt in (QUERY, DOCUMENT)):
            return self.prompts.get(prompt or role or "", "")
        return find_prompt(self.prompts, prompt)
