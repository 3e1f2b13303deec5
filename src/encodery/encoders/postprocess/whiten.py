"""Whitening: mean zero and directions evened out, by a sample's statistics. arXiv:2103.15316, arXiv:2104.01767

The papers even out fully (`power` = 1). Halfway is the default here: on the labelled collections of bench it is
never worse than no whitening, and full whitening often is. Directions that the sample says little about would be
blown up to noise, so each variance is raised by (`floor` + H / N) times their mean: a small sample only centres.
Shapes: N vectors, H width, K kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from encodery.base.errors import SettingsError
from encodery.encoders.postprocess import PostProcess, State


@dataclass(frozen=True, kw_only=True)
class Whiten(PostProcess):
    """`power`: 1 evens all directions out, 0 only turns them. `floor`: share of the mean variance added to each
    direction. `keep`: width after, the directions that vary most; all if not given."""

    is_linear: ClassVar[bool] = True
    power: float = 0.5
    floor: float = 0.01
    keep: int | None = None

    def __post_init__(self) -> None:
        if self.keep is not None and self.keep < 1:
            raise SettingsError(f"keep = {self.keep}: must be positive.")
        if self.floor < 0 or not 0 <= self.power <= 1:
            raise SettingsError(f"floor = {self.floor}, power = {self.power}: floor >= 0 and power between 0 and 1.")

    def fit(self, vectors: np.ndarray) -> State:
        sample = vectors.astype(np.float64)
        mean = sample.mean(axis=0)
        values, directions = np.linalg.eigh((sample - mean).T @ (sample - mean) / max(len(sample) - 1, 1))
        order = np.argsort(-values)[: self.output_dim(len(mean))]
        strength = np.maximum(values, 0) + (self.floor + sample.shape[1] / len(sample)) * max(values.mean(), 1e-12)
        turn = directions[:, order] * strength[order] ** (-self.power / 2)
        return {"mean": mean.astype(np.float32), "turn": turn.astype(np.float32)}

    def apply(self, vectors: np.ndarray, state: State) -> np.ndarray:
        finished: np.ndarray = (vectors - state["mean"]) @ state["turn"]
        return finished

    def output_dim(self, width: int) -> int:
        return min(self.keep or width, width)
