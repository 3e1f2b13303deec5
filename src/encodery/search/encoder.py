"""What an index asks of a text encoder of one vector a text; `embed.Embedder` is one. Others: `sides.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from encodery.encoders.embeddings import DenseEmbeddings


class TextEncoder(Protocol):
    """Texts to vectors of `width` K; `longest` is the number of tokens of a text that are read whole."""

    @property
    def dimension(self) -> int:
        """Width of a vector."""

    @property
    def max_content_tokens(self) -> int:
        """Tokens that fit, special tokens not counted."""

    @property
    def fingerprint(self) -> str:
        """Differs when any text could get another vector."""

    @property
    def prompts(self) -> Mapping[str, str]:
        """Name -> what is put before a text that is encoded under it."""

    def encode(self, texts: Sequence[str], truncate: str = "error", *, prompt: str | None = None) -> DenseEmbeddings:
        """Vectors (N, K)."""

    def token_offsets(self, text: str) -> np.ndarray:
        """Characters [begin, end) (n, 2) of each token."""
