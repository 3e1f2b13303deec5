"""Subtracts the mean of a sample, and on request its strongest directions ("all but the top"). arXiv:1702.01417

Vectors of encoders that were not trained to be compared share a large common part, which hides what differs.
With `directions` = 0 only the mean goes. Shapes: N vectors, H width, D directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from encodery.base.errors import SettingsError
from encodery.encoders.postprocess import PostProcess, State


@dataclass(frozen=True, kw_only=True)
class Centre(PostProcess):
    """`directions`: how many principal directions of the sample are taken out as well; the paper advises H / 100."""

    is_linear: ClassVar[bool] = True
    directions: int = 0

    def __post_init__(self) -> None:
        if self.directions < 0:
            raise SettingsError(f"directions = {self.directions}: must not be negative.")

    def fit(self, vectors: np.ndarray) -> State:
        mean = vectors.mean(axis=0, dtype=np.float64)
        count = min(self.directions, min(vectors.shape))
        top = np.linalg.svd(vectors - mean, full_matrices=False)[2][:count] if count else np.zeros((0, len(mean)))
        return {"mean": mean.astype(np.float32), "directions": top.astype(np.float32)}

    def apply(self, vectors: np.ndarray, state: State) -> np.ndarray:
        centred = vectors - state["mean"]
        directions = state["directions"]
        finished: np.ndarray = centred - (centred @ directions.T) @ directions
        return finished
