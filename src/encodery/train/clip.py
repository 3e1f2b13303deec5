"""Gradient clipping by the global norm, and the rule for gradients that are not finite: no step, and a count.

One read of the norm per step decides both; the pass over the gradients that scales them is made only when needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from encodery.base.errors import UserError


def gradient_norm(parameters: Iterable[Tensor]) -> float:
    """The 2-norm of all gradients together; infinite or NaN where one is. Waits for the device."""
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(grads) if grads else torch.zeros(())
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def clip(parameters: Iterable[Tensor], limit: float) -> float:
    """Scale the gradients down to a global norm of `limit`, in place; returns the norm before.

    A `limit` of 0 is none. Gradients that are not finite are left as they are: the caller must not step on them.
    """
    held = list(parameters)
    norm = gradient_norm(held)
    if 0 < limit < norm and math.isfinite(norm):
        torch._foreach_mul_([p.grad for p in held if p.grad is not None], limit / norm)
    return norm


@dataclass
class GuardedStep:
    """An optimiser's step behind clipping: skipped, and counted, when a gradient is not finite.

    `limit`: the largest global norm, 0 for none. `patience`: after so many skips in a row the run stops. `skipped` is
    part of a run's state. Every rank sees the same summed gradients and so decides alike.
    """

    limit: float = 1.0
    patience: int = 20
    skipped: int = 0
    in_a_row: int = 0

    def step(self, optimizer: torch.optim.Optimizer) -> tuple[float, bool]:
        """Clip and step; returns the norm before clipping and whether the step was taken.

        Raises `UserError` when `patience` is at its end.
        """
        norm = clip((p for group in optimizer.param_groups for p in group["params"]), self.limit)
        if math.isfinite(norm):
            optimizer.step()
            self.in_a_row = 0
            return norm, True
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row >= self.patience:
            raise UserError(
                f"The gradient was not finite for {self.in_a_row} steps in a row: the run has diverged. "
                "Lower optim.lr, lengthen the warm-up, or set a clip limit, and go on from an earlier checkpoint."
            )
        return norm, False

    def state(self) -> dict[str, int]:
        """For the checkpoint."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state(self, state: dict[str, int]) -> None:
        """Take back what `state` gave."""
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]
