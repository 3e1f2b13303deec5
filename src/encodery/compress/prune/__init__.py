"""Pruning: which weights of the linear layers are set to zero while a model is trained, and when."""

from __future__ import annotations

import abc
from collections.abc import Mapping

from torch import Tensor

from encodery.base.parts import Part
from encodery.compress.weight_masks import WeightMasks
from encodery.train.hooks import RunningHook


class Pruning(Part):
    """A method of pruning. What it has pruned stays zero, so that the saved model is an ordinary one with zeros."""

    @abc.abstractmethod
    def build(self, weights: Mapping[str, Tensor]) -> RunningPruning:
        """The method at work on the weights (O, I) of linear layers, by name."""

    @abc.abstractmethod
    def is_complete(self, progress: float) -> bool:
        """Whether the final sparsity is reached at `progress` 0..1 of the run; only later weights can be the best."""


class RunningPruning(RunningHook, abc.ABC):
    """Pruning in one run. `masks` says which weights are kept; `after_step` shrinks and applies them."""

    masks: WeightMasks
