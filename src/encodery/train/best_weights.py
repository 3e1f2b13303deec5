"""The best weights so far, for jobs that select weights by a held-out metric.

They are kept beside the weights being trained and stored in every checkpoint, so a resumed run keeps the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class BestWeights:
    """`metric`: the highest so far, reached at `step`; `scores_since`: later scores, none of them higher;
    `last_scored_step`: the step of the last score."""

    metric: float | None = None
    step: int = 0
    scores_since: int = 0
    last_scored_step: int = 0
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def update(self, metric: float, step: int, module: nn.Module) -> None:
        """Keep a copy of the weights if `metric` is higher than all before; NaN never is."""
        self.last_scored_step = step
        if not math.isnan(metric) and (self.metric is None or metric > self.metric):
            self.metric, self.step, self.scores_since = metric, step, 0
            self.tensors = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        else:
            self.scores_since += 1

    def restore(self, module: nn.Module) -> None:
        """Copy the best weights into the module."""
        with torch.no_grad():
            for name, tensor in module.state_dict().items():
                tensor.copy_(self.tensors[name])

    def state(self) -> dict[str, Any]:
        """Everything but the weights, as JSON."""
        return {
            "metric": self.metric,
            "step": self.step,
            "scores_since": self.scores_since,
            "last_scored_step": self.last_scored_step,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> BestWeights:
        """The best weights of a checkpoint: its `state` and its `tensors`."""
        return cls(**state, tensors=dict(tensors))
