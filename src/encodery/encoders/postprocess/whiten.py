"""Whitening: zero mean and equal variance in all directions, fitted to a sample. arXiv:2103.15316, arXiv:2104.01767

The papers equalise the variances fully (`power` = 1). The default is half of that: on the labelled collections of the
benchmarks it is never worse than no whitening, and full whitening often is. Directions that the sample determines badly
would be amplified to noise, so (`floor` + H / N) times the mean variance is added to each variance: a small sample only
centres. Shapes: N vectors, H width, K dimensions kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from encodery.base.errors import SettingsError
from encodery.encoders.postprocess import PostProcess, State


@dataclass(frozen=True, kw_only=True)
class Whiten(PostProcess):
    """`power`: 1 equalises all variances, 0 only rotates. `floor`: the fraction of the mean variance that is added to
    each. `keep`: the dimension of the output, the directions of the highest variance; all if not given.

    Use it when an encoder without contrastive training is to be compared by cosine, with unlabelled texts as sample:

        postprocess = ["whiten", "normalise"]
    """

    is_linear: ClassVar[bool] = True
    power: float = 0.5
    floor: float = 0.01
    keep: int | None = None

    def __post_init__(self) -> None:
        if self.keep is not None and self.keep < 1:
            raise SettingsError(f"keep = {self.keep}: must be at least 1.")
        if self.floor < 0 or not 0 <= self.power <= 1:
            raise SettingsError(
                f"floor = {self.floor}, power = {self.power}: floor must be at least 0, and power between 0 and 1."
            )

    def fit(self, vectors: np.ndarray) -> State:
        sample = vectors.astype(np.float64)
        mean = sample.mean(axis=0)
        values, directions = np.linalg.eigh((sample - mean).T @ (sample - mean) / max(len(sample) - 1, 1))
        order = np.argsort(-values)[: self.output_dim(len(mean))]
        variances = np.maximum(values, 0) + (self.floor + sample.shape[1] / len(sample)) * max(values.mean(), 1e-12)
        matrix = directions[:, order] * variances[order] ** (-self.power / 2)
        return {"mean": mean.astype(np.float32), "matrix": matrix.astype(np.float32)}

    def apply(self, vectors: np.ndarray, state: State) -> np.ndarray:
        processed: np.ndarray = (vectors - state["mean"]) @ state["matrix"]
        return processed

    def output_dim(self, width: int) -> int:
        return min(self.keep or width, width)
