"""Gradient clipping by the global norm, and the rule for gradients that are not finite: no step, and a count.

One read of the norm per step decides both; the pass over the gradients that scales them is made only when needed. A
device that works ahead of the host is not waited for: there the optimiser's kernel does both (`GuardedStep.late`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from encodery.base.errors import UserError
from encodery.train import optimizer_offload
from encodery.train.optim import OFFLOADED

STEPS_BEFORE_SCALE_DOUBLES = 2000  # steps in a row after which the scale is doubled
DEFERRED_STEPS = 16  # steps after which it is read whether they were taken, where that is done late


def gradient_norm(parameters: Iterable[Tensor]) -> float:
    """The 2-norm of all gradients together; infinite or NaN where one is. Waits for the device."""
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(grads) if grads else torch.zeros(())
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def can_skip_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimiser's own kernel can scale gradients and leave out a step: fused Adam, on whole weights, with
    its moments at hand."""
    groups = optimizer.param_groups
    return isinstance(optimizer, torch.optim.Adam) and all(
        group["fused"] and not group.get(OFFLOADED) and not any(isinstance(p, DTensor) for p in group["params"])
        for group in groups
    )


def clip_gradients(parameters: Iterable[Tensor], max_norm: float, loss_scale: float = 1.0) -> float:
    """Scale the gradients, which are `scale` times too large, down to a global norm of `limit`, in place; returns the
    norm before, of what they should be.

    A `limit` of 0 is none. Gradients that are not finite are left as they are: the caller must not step on them.
    """
    held = list(parameters)
    norm = gradient_norm(held) / loss_scale
    factor = (max_norm / norm if 0 < max_norm < norm else 1.0) / loss_scale
    if factor != 1.0 and math.isfinite(norm):
        torch._foreach_mul_([p.grad for p in held if p.grad is not None], factor)
    return norm


@dataclass
class GuardedStep:
    """An optimiser's step behind clipping: skipped, and counted, when a gradient is not finite.

    `limit`: the largest global norm, 0 for none. `patience`: after so many skips in a row the run has diverged.
    `skipped` and `rolled_back` (how often weights went back to a checkpoint) are part of a run's state, and so is
    `in_a_row`: while it is above 0, the weights themselves may be at fault. Every rank sees the same summed gradients
    and so decides alike.
    `scale`: what the loss is multiplied by before it goes backward, for formats in which small gradients vanish; other
    than 1 it is halved at every skip and doubled after `GOOD` steps without one (arXiv:1710.03740).
    `late`: the optimiser `decides`, on its device, and the host counts some steps later; a step then always counts as
    taken for whoever asks, and a run that has diverged ends up to `LATE` steps after its time. Not with a `scale`.
    """

    max_norm: float = 1.0
    max_consecutive_skips: int = 20
    skipped: int = 0
    consecutive_skips: int = 0
    loss_scale: float = 1.0
    steps_since_skip: int = 0
    rollbacks: int = 0
    deferred: bool = False
    pending: list[Tensor] = field(default_factory=list)

    def step(self, optimizer: torch.optim.Optimizer) -> tuple[float | Tensor, bool]:
        """Clip and step; returns the norm before clipping, on the device where it is read `late`, and whether the step
        was taken.

        Raises `UserError` when `patience` is at its end.
        """
        if self.deferred:
            found = self._undecided(optimizer)
            if len(self.pending) >= DEFERRED_STEPS:
                self.flush()
                self._check()
            return found, True
        norm = clip_gradients(
            (p for group in optimizer.param_groups for p in group["params"]), self.max_norm, self.loss_scale
        )
        if math.isfinite(norm):
            optimizer_offload.optimizer_step(optimizer)
            self.consecutive_skips = 0
            self._rescale(1)
            return norm, True
        self._rescale(0)
        self.skipped += 1
        self.consecutive_skips += 1
        self._check()
        return norm, False

    def flush(self) -> None:
        """Count what waits; waits for the device where anything does."""
        for sound in torch.stack(self.pending).tolist() if self.pending else []:
            self.skipped += not sound
            self.consecutive_skips = 0 if sound else self.consecutive_skips + 1
        self.pending.clear()

    def _undecided(self, optimizer: torch.optim.Optimizer) -> Tensor:
        """Clip and step or not, without a look at which; the norm."""
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
        sound = norm.isfinite()
        # What torch's kernel divides gradients by, and what makes it leave out the step.
        excess = norm / self.max_norm if self.max_norm else torch.ones_like(norm)
        optimizer.grad_scale = excess.clamp(min=1.0)  # type: ignore[attr-defined]
        optimizer.found_inf = (~sound).float()  # type: ignore[attr-defined]
        optimizer.step()
        self.pending.append(sound)
        return norm

    def _check(self) -> None:
        if self.consecutive_skips >= self.max_consecutive_skips:
            raise UserError(
                f"The gradient was not finite for {self.consecutive_skips} steps in a row: the run has diverged. "
                "Lower optim.lr, lengthen the warm-up, or set a clip limit, and go on from an earlier checkpoint."
            )

    def _rescale(self, taken: int) -> None:
        """After a step that was taken, or not."""
        if self.loss_scale == 1.0:
            return
        self.steps_since_skip = (self.steps_since_skip + 1) * taken
        if not taken:
            self.loss_scale = max(self.loss_scale / 2, 2.0)
        elif self.steps_since_skip == STEPS_BEFORE_SCALE_DOUBLES:
            self.loss_scale, self.steps_since_skip = self.loss_scale * 2, 0

    def state(self) -> dict[str, float]:
        """For the checkpoint."""
        self.flush()
        state: dict[str, float] = {"skipped": self.skipped, "consecutive_skips": self.consecutive_skips}
        if self.loss_scale != 1.0:
            state |= {"scale": self.loss_scale, "good": self.steps_since_skip}
        return state | ({"rollbacks": self.rollbacks} if self.rollbacks else {})

    def load_state(self, state: dict[str, float]) -> None:
        """Take back what `state` gave."""
        self.skipped, self.consecutive_skips = int(state["skipped"]), int(state["consecutive_skips"])
        self.loss_scale, self.steps_since_skip = float(state.get("scale", self.loss_scale)), int(state.get("good", 0))
        self.rollbacks = int(state.get("rollbacks", 0))
