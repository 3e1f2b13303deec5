"""Gradient clipping by the global norm, and the guard against gradients that are not finite: the step is skipped and
counted.

One read of the norm per step decides both; the pass over the gradients that scales them is made only if needed. On a
device that runs behind the host nothing is waited for: there the kernel of the optimiser does both
(`GuardedStep.deferred`)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from encodery.base.errors import UserError
from encodery.train.optimizer_offload import optimizer_step
from encodery.train.optimizer_state import OFFLOADED

STEPS_BEFORE_SCALE_DOUBLES = 2000  # consecutive steps without a skip
DEFERRED_STEPS = 16  # steps between two reads of which steps were skipped, if that is deferred


def gradient_norm(parameters: Iterable[Tensor]) -> float:
    """The 2-norm of all gradients together; infinite or NaN if one of them is. Waits for the device."""
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(grads) if grads else torch.zeros(())
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def can_skip_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the kernel of the optimiser can scale gradients and skip a step: fused Adam, on whole weights, without
    offloaded state."""
    groups = optimizer.param_groups
    return isinstance(optimizer, torch.optim.Adam) and all(
        group["fused"] and not group.get(OFFLOADED) and not any(isinstance(p, DTensor) for p in group["params"])
        for group in groups
    )


def clip_gradients(parameters: Iterable[Tensor], max_norm: float, loss_scale: float = 1.0) -> float:
    """Divide the gradients by `loss_scale` and scale them down to a global norm of `max_norm`, in place.

    Returns the norm before clipping, without the loss scale. A `max_norm` of 0 is no limit. Gradients that are not
    finite are left as they are: the caller must not make a step with them."""
    params = list(parameters)
    norm = gradient_norm(params) / loss_scale
    factor = (max_norm / norm if 0 < max_norm < norm else 1.0) / loss_scale
    if factor != 1.0 and math.isfinite(norm):
        torch._foreach_mul_([p.grad for p in params if p.grad is not None], factor)
    return norm


@dataclass
class GuardedStep:
    """The step of an optimiser after clipping; skipped and counted if a gradient is not finite.

    `max_norm`: the largest global norm, 0 for no limit. `max_consecutive_skips`: after this many skips the run has
    diverged. `skipped` and `rollbacks` (how often weights went back to a checkpoint) are part of the state of a run,
    and so is `consecutive_skips`: while it is above 0, the weights themselves may be the cause. Every rank sees the
    same summed gradients and so decides the same. `loss_scale`: the factor on the loss before the backward pass, for
    formats in which small gradients vanish; other than 1 it is halved at every skip and doubled after
    `STEPS_BEFORE_SCALE_DOUBLES` steps without one (arXiv:1710.03740). `deferred`: the optimiser skips steps by itself,
    on its device, and the host counts them some steps later. Until then a step counts as made, and a run that has
    diverged ends up to `DEFERRED_STEPS` steps late. Not with a `loss_scale`."""

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
        """Clip and step. Returns the norm before clipping (a tensor on the device if `deferred`), and whether the step
        was made.

        Raises `UserError` after `max_consecutive_skips` skips.
        """
        if self.deferred:
            deferred_norm = self._step_on_device(optimizer)
            if len(self.pending) >= DEFERRED_STEPS:
                self.flush()
                self._check()
            return deferred_norm, True
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        norm = clip_gradients(parameters, self.max_norm, self.loss_scale)
        if math.isfinite(norm):
            optimizer_step(optimizer)
            self.consecutive_skips = 0
            self._rescale(skipped=False)
            return norm, True
        self._rescale(skipped=True)
        self.skipped += 1
        self.consecutive_skips += 1
        self._check()
        return norm, False

    def flush(self) -> None:
        """Count the deferred steps; waits for the device if there are any."""
        for finite in torch.stack(self.pending).tolist() if self.pending else []:
            self.skipped += not finite
            self.consecutive_skips = 0 if finite else self.consecutive_skips + 1
        self.pending.clear()

    def _step_on_device(self, optimizer: torch.optim.Optimizer) -> Tensor:
        """Clip and let the optimiser step or skip, without reading which; returns the norm."""
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
        finite = norm.isfinite()
        # What torch's kernel divides gradients by, and what makes it skip the step.
        excess = norm / self.max_norm if self.max_norm else torch.ones_like(norm)
        optimizer.grad_scale = excess.clamp(min=1.0)  # type: ignore[attr-defined]
        optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        optimizer.step()
        self.pending.append(finite)
        return norm

    def _check(self) -> None:
        if self.consecutive_skips >= self.max_consecutive_skips:
            raise UserError(
                f"The gradient was not finite in {self.consecutive_skips} consecutive steps: the run has diverged. "
                "Lower optim.lr, lengthen the warm-up, or set train.clip, and continue from an earlier checkpoint."
            )

    def _rescale(self, skipped: bool) -> None:
        """Adapt the loss scale after a step that was made or skipped."""
        if self.loss_scale == 1.0:
            return
        self.steps_since_skip = 0 if skipped else self.steps_since_skip + 1
        if skipped:
            self.loss_scale = max(self.loss_scale / 2, 2.0)
        elif self.steps_since_skip == STEPS_BEFORE_SCALE_DOUBLES:
            self.loss_scale, self.steps_since_skip = self.loss_scale * 2, 0

    def state(self) -> dict[str, float]:
        """The state for a checkpoint."""
        self.flush()
        return {
            "skipped": self.skipped,
            "consecutive_skips": self.consecutive_skips,
            "loss_scale": self.loss_scale,
            "steps_since_skip": self.steps_since_skip,
            "rollbacks": self.rollbacks,
        }

    def load_state(self, state: dict[str, float]) -> None:
        """Load what `state` returned."""
        self.skipped, self.consecutive_skips = int(state["skipped"]), int(state["consecutive_skips"])
        self.loss_scale, self.steps_since_skip = float(state["loss_scale"]), int(state["steps_since_skip"])
        self.rollbacks = int(state["rollbacks"])
