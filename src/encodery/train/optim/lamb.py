"""LAMB: Adam's update, scaled per tensor to the size of the weights, for very large batches (arXiv 1904.00962).

u = m̂ / (√v̂ + ε) + decay · w; the step is lr · (‖w‖ / ‖u‖) · u, the ratio being 1 where either norm is 0. Tensors
spared by weight decay (norms, biases, positions) take Adam's step unscaled, as in the reference implementations.
Equals `adamw` there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from encodery.train.optim import LrScale, Optimizer, trainable, uniform_lr, without_decay
from encodery.train.optim._moments import AdamMoments


@dataclass(frozen=True, kw_only=True)
class LAMB(Optimizer):
    """Adam with a trust ratio per tensor; its rates are larger than Adam's, since they are relative to the weights."""

    lr: float = 5e-3
    betas: tuple[float, float] = (0.9, 0.999)

    def build(self, module: nn.Module, lr_scale: LrScale = uniform_lr) -> torch.optim.Optimizer:
        """The optimiser; its state is two means and a step count per parameter."""
        return _LAMB(self.groups(trainable(module), without_decay(module), lr_scale), betas=self.betas, eps=self.eps)


class _LAMB(AdamMoments):
    def update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        first, second, steps = self.advance(group, params, grads, unbiased=False)
        beta1, beta2 = group["betas"]
        below = torch._foreach_sqrt(second)
        torch._foreach_div_(below, [(1 - beta2**n) ** 0.5 for n in steps])
        torch._foreach_add_(below, group["eps"])
        change = torch._foreach_div(first, below)
        torch._foreach_div_(change, [1 - beta1**n for n in steps])
        if group["weight_decay"]:
            torch._foreach_add_(change, params, alpha=group["weight_decay"])
        if not group["decayed"]:
            torch._foreach_add_(params, change, alpha=-group["lr"])
            return
        sizes = zip(torch._foreach_norm(params), torch._foreach_norm(change), strict=True)
        trust = [torch.where((w > 0) & (u > 0), w / u, 1.0) * group["lr"] for w, u in sizes]
        torch._foreach_mul_(change, trust)
        torch._foreach_sub_(params, change)
