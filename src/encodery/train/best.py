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
class Best:
    """`goal`: the highest so far; `step`: when it was reached; `since`: scores seen after it, none of them higher;
    `last`: the step of the last score."""

    goal: float | None = None
    step: int = 0
    since: int = 0
    last: int = 0
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def consider(self, goal: float, step: int, module: nn.Module) -> None:
        """Keep a copy of the weights if `goal` is higher than all before; a NaN never is."""
        self.last = step
        if not math.isnan(goal) and (self.goal is None or goal > self.goal):
            self.goal, self.step, self.since = goal, step, 0
            self.tensors = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        else:
            self.since += 1

    def put_back(self, module: nn.Module) -> None:
        """Give the module the best weights."""
        with torch.no_grad():
            for name, tensor in module.state_dict().items():
                tensor.copy_(self.tensors[name])

    def state(self) -> dict[str, Any]:
        """All but the weights, as JSON."""
        return {"goal": self.goal, "step": self.step, "since": self.since, "last": self.last}

    @classmethod
    def of(cls, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Best:
        """What `state` and `tensors` of a checkpoint hold."""
        return cls(state["goal"], int(state["step"]), int(state["since"]), int(state["last"]), dict(tensors))
