"""Gradual magnitude pruning: more and more of the smallest weights become zero during training. arXiv:1710.01878

At progress p of the run the sparsity is s · (1 - (1 - x)³) with x = (p - begin) / (end - begin): many weights at first,
when they are redundant, and few at the end. Every `every` steps the smallest weights of each matrix are pruned to that
fraction; those that are pruned stay zero. Differs from the paper: the schedule follows the progress of the run, not its
steps, so that any budget works.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.settings import check_at_least, check_interval
from encodery.compress.prune import Pruning, RunningPruning
from encodery.compress.weight_masks import WeightMasks
from encodery.train.hooks import TrainState


@dataclass(frozen=True, kw_only=True)
class MagnitudePruning(Pruning):
    """Use it for a model that takes less space when stored compressed, or for an engine that skips zeros.

    `sparsity`: the fraction of zeros at the end, in every matrix of the blocks; it grows between the fractions `begin`
    and `end` of the run, and the rest of the run lets the other weights recover. `every`: steps between two prunings.

        encodery compress RUN --out pruned prune.is=magnitude prune.sparsity=0.8
    """

    sparsity: float = 0.5
    begin: float = 0.1
    end: float = 0.7
    every: int = 10

    def __post_init__(self) -> None:
        check_interval(self, "0 < x < 1", "sparsity")
        check_interval(self, "0 <= x < 1", "begin")
        check_interval(self, "0 < x <= 1", "end")
        check_at_least(self, 1, "every")
        if self.end <= self.begin:
            raise SettingsError(f"prune.end = {self.end}: must be above prune.begin = {self.begin}.")

    def sparsity_at(self, progress: float) -> float:
        """The fraction of zeros at `progress` 0..1."""
        x = min(max((progress - self.begin) / (self.end - self.begin), 0.0), 1.0)
        return self.sparsity * (1 - (1 - x) ** 3)

    def is_complete(self, progress: float) -> bool:
        return progress >= self.end

    def build(self, weights: Mapping[str, Tensor]) -> RunningPruning:
        return _RunningMagnitude(self, weights)


class _RunningMagnitude(RunningPruning):
    def __init__(self, settings: MagnitudePruning, weights: Mapping[str, Tensor]) -> None:
        self.settings, self.masks = settings, WeightMasks(weights)

    def after_step(self, state: TrainState) -> None:
        """Prune if it is due, then set to zero what the step has changed."""
        target = self.settings.sparsity_at(state.progress)
        if state.step % self.settings.every == 0 or self.settings.is_complete(state.progress):
            self.masks.keep_highest({name: weight.abs() for name, weight in self.masks.weights.items()}, target)
        self.masks.apply()

    def evaluation_weights(self) -> contextlib.AbstractContextManager[None]:
        """Inside, pruned weights are zero in an average of the weights too."""
        return self.masks.applied()

    def metrics(self) -> dict[str, float]:
        return {"sparsity": self.masks.sparsity}

    def state_tensors(self) -> dict[str, Tensor]:
        return dict(self.masks.kept)

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self.masks.load(tensors)
