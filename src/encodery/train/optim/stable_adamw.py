"""StableAdamW: AdamW whose update shrinks when gradients outgrow their history (arXiv 2304.13013).

Per tensor, RMS = √mean(g² / max(v, ε²)); the rate, decay included, is divided by max(1, RMS), which is AdaFactor's
update clipping and stands in for gradient clipping. The means are kept unbiased by moving their decays instead of
dividing afterwards, as in the paper. Equals `adamw` (up to rounding) while RMS stays at or below 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from encodery.train.optim import LrScale, Optimizer, trainable, uniform_lr, without_decay
from encodery.train.optim._moments import AdamMoments


@dataclass(frozen=True, kw_only=True)
class StableAdamW(Optimizer):
    """AdamW with update clipping per tensor."""

    def build(self, module: nn.Module, lr_scale: LrScale = uniform_lr) -> torch.optim.Optimizer:
        """The optimiser; its state is two means and a step count per parameter."""
        return _StableAdamW(
            self.groups(trainable(module), without_decay(module), lr_scale), betas=self.betas, eps=self.eps
        )


class _StableAdamW(AdamMoments):
    def update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        eps = group["eps"]
        first, second, _ = self.advance(group, params, grads, unbiased=True)
        below = torch._foreach_sqrt(second)
        size = torch._foreach_norm(torch._foreach_div(grads, torch._foreach_clamp_min(below, eps)))
        rates = [group["lr"] / (n / p.numel() ** 0.5).clamp_min(1.0) for n, p in zip(size, params, strict=True)]
        torch._foreach_add_(below, eps)
        change = torch._foreach_div(first, below)
        if group["weight_decay"]:
            torch._foreach_add_(change, params, alpha=group["weight_decay"])
        torch._foreach_mul_(change, rates)
        torch._foreach_sub_(params, change)
