"""Post-processing: a step between pooling and comparison.

A step can be fitted to a sample of vectors once; its state is plain arrays, stored with the model or the index.
Shapes: N vectors, H width before, K dimension after.
"""

from __future__ import annotations

import abc
from typing import ClassVar

import numpy as np

from encodery.base.errors import SettingsError
from encodery.base.parts import Part, name_of

State = dict[str, np.ndarray]


class PostProcess(Part):
    """A step on vectors, with the arrays that it was fitted to. `is_linear`: it is a matrix product and a shift."""

    is_linear: ClassVar[bool] = False

    def fit(self, vectors: np.ndarray) -> State:
        """The state for a sample (N, H) float32; empty by default."""
        return {}

    @abc.abstractmethod
    def apply(self, vectors: np.ndarray, state: State) -> np.ndarray:
        """(N, H) float32 → (N, K) float32, each vector by itself."""

    def output_dim(self, width: int) -> int:
        """K for vectors of width H; H by default."""
        return width

    def as_linear(self, state: State, width: int) -> tuple[np.ndarray, np.ndarray]:
        """The weight (H, K) and bias (K,) float64 of a linear step. Raises `SettingsError` for one that is not."""
        if not self.is_linear:
            raise SettingsError(
                f"postprocess = '{name_of(self)}': is not linear, so that no gradient passes through it."
            )
        bias = self.apply(np.zeros((1, width), np.float32), state)[0].astype(np.float64)
        return self.apply(np.eye(width, dtype=np.float32), state).astype(np.float64) - bias, bias
