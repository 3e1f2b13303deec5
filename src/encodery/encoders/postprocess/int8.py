"""Eight bits per dimension: each value is rounded to one of 255 steps between limits fitted to a sample.

The output is the value that the byte stands for, so that vectors are compared as before and the loss of precision shows
in every metric; `codes` gives the bytes for a store that keeps them. Values beyond the limits are clipped.
Shapes: N vectors, H width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from encodery.base.errors import SettingsError
from encodery.encoders.postprocess import PostProcess, State

STEPS = 127


@dataclass(frozen=True, kw_only=True)
class Int8(PostProcess):
    """`clip_fraction`: the fraction of the sample's values that is clipped at each end; 0 takes the extremes as limits.

    Use it when the vectors of an index must take a quarter of the memory of float32:

        postprocess = ["normalise", "int8"]
    """

    unsupported: ClassVar[frozenset[str]] = frozenset({"linear"})

    clip_fraction: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.clip_fraction < 0.5:
            raise SettingsError(f"clip_fraction = {self.clip_fraction}: must be at least 0 and below 0.5.")

    def fit(self, vectors: np.ndarray) -> State:
        low, high = np.quantile(vectors.astype(np.float64), [self.clip_fraction, 1 - self.clip_fraction], axis=0)
        step = np.maximum((high - low) / (2 * STEPS), 1e-12)
        return {"middle": ((low + high) / 2).astype(np.float32), "step": step.astype(np.float32)}

    def codes(self, vectors: np.ndarray, state: State) -> np.ndarray:
        """(N, H) int8 in -127 … 127."""
        steps = np.rint((vectors - state["middle"]) / state["step"])
        return np.clip(steps, -STEPS, STEPS).astype(np.int8)

    def apply(self, vectors: np.ndarray, state: State) -> np.ndarray:
        processed: np.ndarray = self.codes(vectors, state).astype(np.float32) * state["step"] + state["middle"]
        return processed
