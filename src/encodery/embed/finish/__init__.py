"""Finishing: what is done to pooled vectors before they are compared.

A part may learn from a sample of vectors once (`fit`); what it learnt is plain arrays, stored beside the index or
the model. Shapes: N vectors, H width before, K width after.
"""

from __future__ import annotations

import abc

import numpy as np

from encodery.base.parts import Part

State = dict[str, np.ndarray]


class Finish(Part):
    """A step on vectors, with arrays it learnt from a sample."""

    def fit(self, vectors: np.ndarray) -> State:
        """What must be kept of a sample (N, H) float32; nothing by default."""
        return {}

    @abc.abstractmethod
    def apply(self, vectors: np.ndarray, state: State) -> np.ndarray:
        """(N, H) float32 → (N, K) float32, row by row."""

    def width(self, width: int) -> int:
        """K, given H; unchanged by default."""
        return width
