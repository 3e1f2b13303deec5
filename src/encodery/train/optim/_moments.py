"""Running means of gradient and squared gradient, for many tensors at a time: what Adam-like optimisers share."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class AdamMoments(torch.optim.Optimizer):
    """State per parameter as in `torch.optim.AdamW`: `step` (a scalar on the CPU), `exp_avg`, `exp_avg_sq`."""

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"betas": betas, "eps": eps})

    @abc.abstractmethod
    def update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        """Change `params` in place."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step for every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self.update(group, params, [p.grad for p in params])
        return loss

    def advance(
        self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor], unbiased: bool
    ) -> tuple[list[Tensor], list[Tensor], list[float]]:
        """Update the means; returns both and the number of steps of each parameter, this one included.

        `unbiased` changes the decays to β(1 - βⁿ⁻¹)/(1 - βⁿ) for β, so that the means need no correction.
        """
        for p in params:
            if not self.state[p]:
                self.state[p] |= {
                    "step": torch.tensor(0.0),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
        states = [self.state[p] for p in params]
        for state in states:
            state["step"] += 1
        steps = [state["step"].item() for state in states]
        first, second = [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]
        beta1, beta2 = ([_decay(beta, n, unbiased) for n in steps] for beta in group["betas"])
        torch._foreach_lerp_(first, grads, [1 - beta for beta in beta1])
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, grads, grads, [1 - beta for beta in beta2])
        return first, second, steps


def _decay(beta: float, step: float, unbiased: bool) -> float:
    return float(beta * (1 - beta ** (step - 1)) / (1 - beta**step)) if unbiased else beta
