"""Subtracts the mean of a sample, and optionally its strongest directions ("all but the top"). arXiv:1702.01417

The vectors of an encoder that was not trained for comparison have a large common component, which hides their
differences. With `directions` = 0 only the mean is subtracted. Shapes: N vectors, H width, D directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from encodery.base.settings import check_at_least
from encodery.encoders.postprocess import PostProcess, State


@dataclass(frozen=True, kw_only=True)
class Centre(PostProcess):
    """`directions`: the number of principal directions of the sample that are removed too; the paper advises H / 100.

    Use it when an encoder without contrastive training gives all texts similar vectors:

        postprocess = [{is = "centre", directions = 3}, "normalise"]
    """

    is_linear: ClassVar[bool] = True
    directions: int = 0

    def __post_init__(self) -> None:
        check_at_least(self, 0, "directions")

    def fit(self, vectors: np.ndarray) -> State:
        mean = vectors.mean(axis=0, dtype=np.float64)
        count = min(self.directions, min(vectors.shape))
        top = np.linalg.svd(vectors - mean, full_matrices=False)[2][:count] if count else np.zeros((0, len(mean)))
        return {"mean": mean.astype(np.float32), "directions": top.astype(np.float32)}

    def apply(self, vectors: np.ndarray, state: State) -> np.ndarray:
        centred = vectors - state["mean"]
        directions = state["directions"]
        processed: np.ndarray = centred - (centred @ directions.T) @ directions
        return processed
