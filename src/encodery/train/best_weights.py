"""The best weights so far: what a run keeps where its job says which held-out score is better.

They are held beside the weights in training and stand in every checkpoint, so a resumed run keeps the same ones.
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
    """`goal`: the highest so far; `step`: when it was reached; `since`: scores seen after it, none of them higher;
    `last`: the step of the last score."""

    metric: float | None = None
    step: int = 0
    scores_since: int = 0
    last_scored_step: int = 0
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def update(self, metric: float, step: int, module: nn.Module) -> None:
        """Keep a copy of the weights if `goal` is higher than all before; a NaN never is."""
        self.last_scored_step = step
        if not math.isnan(metric) and (self.metric is None or metric > self.metric):
            self.metric, self.step, self.scores_since = metric, step, 0
            self.tensors = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        else:
            self.scores_since += 1

    def restore(self, module: nn.Module) -> None:
        """Give the module the best weights."""
        with torch.no_grad():
            for name, tensor in module.state_dict().items():
                tensor.copy_(self.tensors[name])

    def state(self) -> dict[str, Any]:
        """All but the weights, as JSON."""
        return {"goal": self.metric, "step": self.step, "since": self.scores_since, "last": self.last_scored_step}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> BestWeights:
        """What `state` and `tensors` of a checkpoint hold."""
        return cls(state["goal"], int(state["step"]), int(state["since"]), int(state["last"]), dict(tensors))
