"""Whitening: mean zero, covariance the identity, by a sample's statistics. arXiv:2103.15316, arXiv:2104.01767

Directions in which the sample barely varies would be blown up to noise: eigenvalues are raised by `floor` times
their mean, and `keep` may cut the vectors to the directions that vary most. Shapes: N vectors, H width, K kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from encodery.base.errors import SettingsError
from encodery.embed.finish import Finish, State


@dataclass(frozen=True, kw_only=True)
class Whiten(Finish):
    """`keep`: width after, all if not given. `floor`: share of the mean variance added to each direction.
    `power`: 1 evens all directions out, 0 only turns them, between is milder."""

    keep: int | None = None
    floor: float = 0.01
    power: float = 1.0

    def __post_init__(self) -> None:
        if self.keep is not None and self.keep < 1:
            raise SettingsError(f"keep = {self.keep}: must be positive.")
        if self.floor < 0 or not 0 <= self.power <= 1:
            raise SettingsError(f"floor = {self.floor}, power = {self.power}: floor >= 0 and power between 0 and 1.")

    def fit(self, vectors: np.ndarray) -> State:
        sample = vectors.astype(np.float64)
        mean = sample.mean(axis=0)
        values, directions = np.linalg.eigh((sample - mean).T @ (sample - mean) / max(len(sample) - 1, 1))
        order = np.argsort(-values)[: self.width(len(mean))]
        strength = np.maximum(values, 0) + self.floor * max(values.mean(), 1e-12)
        turn = directions[:, order] * strength[order] ** (-self.power / 2)
        return {"mean": mean.astype(np.float32), "turn": turn.astype(np.float32)}

    def apply(self, vectors: np.ndarray, state: State) -> np.ndarray:
        finished: np.ndarray = (vectors - state["mean"]) @ state["turn"]
        return finished

    def width(self, width: int) -> int:
        return min(self.keep or width, width)
