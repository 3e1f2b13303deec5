"""Scales vectors to unit length, so that the inner product is the cosine. A zero vector stays zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from encodery.encoders.postprocess import PostProcess, State


@dataclass(frozen=True, kw_only=True)
class Normalise(PostProcess):
    """Has no settings.

    Use it when vectors are to be compared by cosine, which is the default:

        postprocess = ["normalise"]
    """

    unsupported: ClassVar[frozenset[str]] = frozenset({"linear"})

    def apply(self, vectors: np.ndarray, state: State) -> np.ndarray:
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        processed: np.ndarray = vectors / np.maximum(lengths, 1e-12)
        return processed
