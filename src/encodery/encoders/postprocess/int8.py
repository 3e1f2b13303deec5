"""Eight bits a number: each dimension is rounded to 255 steps between limits learnt from a sample.

What comes out is the value that the byte stands for, so vectors are compared as before and the loss of precision shows
in every figure; `codes` gives the bytes themselves for a store that keeps them. Values beyond the limits are clipped.
Shapes: N vectors, H width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from encodery.base.errors import SettingsError
from encodery.encoders.postprocess import PostProcess, State

STEPS = 127


@dataclass(frozen=True, kw_only=True)
class Int8(PostProcess):
    """`outside`: share of the sample's values left beyond the limits on each side; 0 takes the extremes."""

    clip_fraction: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.clip_fraction < 0.5:
            raise SettingsError(f"outside = {self.clip_fraction}: must lie in 0 <= outside < 0.5.")

    def fit(self, vectors: np.ndarray) -> State:
        low, high = np.quantile(vectors.astype(np.float64), [self.clip_fraction, 1 - self.clip_fraction], axis=0)
        step = np.maximum((high - low) / (2 * STEPS), 1e-12)
        return {"middle": ((low + high) / 2).astype(np.float32), "step": step.astype(np.float32)}

    def codes(self, vectors: np.ndarray, state: State) -> np.ndarray:
        """(N, H) int8 in -127 … 127."""
        places = np.rint((vectors - state["middle"]) / state["step"])
        return np.clip(places, -STEPS, STEPS).astype(np.int8)

    def apply(self, vectors: np.ndarray, state: State) -> np.ndarray:
        finished: np.ndarray = self.codes(vectors, state).astype(np.float32) * state["step"] + state["middle"]
        return finished
