"""Finishing: what is done to pooled vectors before they are compared.

A part may learn from a sample of vectors once (`fit`); what it learnt is plain arrays, stored beside the index or
the model. Shapes: N vectors, H width before, K width after.
"""

from __future__ import annotations

import abc
from typing import ClassVar

import numpy as np

from encodery.base.errors import SettingsError
from encodery.base.parts import Part, name_of

State = dict[str, np.ndarray]


class PostProcess(Part):
    """A step on vectors, with arrays it learnt from a sample. `linear`: whether it is a matrix and a shift."""

    is_linear: ClassVar[bool] = False

    def fit(self, vectors: np.ndarray) -> State:
        """What must be kept of a sample (N, H) float32; nothing by default."""
        return {}

    @abc.abstractmethod
    def apply(self, vectors: np.ndarray, state: State) -> np.ndarray:
        """(N, H) float32 → (N, K) float32, row by row."""

    def output_dim(self, width: int) -> int:
        """K, given H; unchanged by default."""
        return width

    def as_linear(self, state: State, width: int) -> tuple[np.ndarray, np.ndarray]:
        """The weight (H, K) and bias (K,) that a linear step is, float64. Raises `SettingsError` for another."""
        if not self.is_linear:
            raise SettingsError(f"finish = '{name_of(self)}': is not linear, so that nothing is trained through it.")
        bias = self.apply(np.zeros((1, width), np.float32), state)[0].astype(np.float64)
        return self.apply(np.eye(width, dtype=np.float32), state).astype(np.float64) - bias, bias
