"""LAMB: the update of Adam, scaled per tensor to the size of the weights, for very large batches (arXiv:1904.00962).

u = m̂ / (√v̂ + ε) + decay · w; the step is lr · (‖w‖ / ‖u‖) · u, where the ratio is 1 if either norm is 0. Parameters
without weight decay (norms, biases, positions) take the step of Adam unscaled, as in the reference implementations;
there it equals `adamw`. Use it for batches of millions of tokens: `optim.is=lamb optim.lr=5e-3`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from encodery.train.optim import LrScale, Optimizer, uniform_lr
from encodery.train.optim._groups import parameter_groups, trainable, without_decay
from encodery.train.optim._moments import AdamMoments


@dataclass(frozen=True, kw_only=True)
class LAMB(Optimizer):
    """Adam with a trust ratio per tensor; its learning rates are larger than Adam's, since they are relative to the
    weights."""

    lr: float = 5e-3
    betas: tuple[float, float] = (0.9, 0.999)

    def build(self, module: nn.Module, lr_scale: LrScale = uniform_lr) -> torch.optim.Optimizer:
        """The optimiser; its state is two means and a step count per parameter."""
        groups = parameter_groups(self, trainable(module), without_decay(module), lr_scale)
        return _LAMB(groups, betas=self.betas, eps=self.eps)


class _LAMB(AdamMoments):
    def update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        first, second, steps = self.advance(group, params, grads, unbiased=False)
        beta1, beta2 = group["betas"]
        denominator = torch._foreach_sqrt(second)
        torch._foreach_div_(denominator, [(1 - beta2**n) ** 0.5 for n in steps])
        torch._foreach_add_(denominator, group["eps"])
        change = torch._foreach_div(first, denominator)
        torch._foreach_div_(change, [1 - beta1**n for n in steps])
        if group["weight_decay"]:
            torch._foreach_add_(change, params, alpha=group["weight_decay"])
        if not group["decayed"]:
            torch._foreach_add_(params, change, alpha=-group["lr"])
            return
        norms = zip(torch._foreach_norm(params), torch._foreach_norm(change), strict=True)
        trust = [torch.where((w > 0) & (u > 0), w / u, 1.0) * group["lr"] for w, u in norms]
        torch._foreach_mul_(change, trust)
        torch._foreach_sub_(params, change)
