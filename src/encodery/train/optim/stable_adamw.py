"""StableAdamW: AdamW whose update shrinks if gradients outgrow their history (arXiv:2304.13013).

Per tensor, RMS = √mean(g² / max(v, ε²)); the learning rate, decay included, is divided by max(1, RMS). This is the
update clipping of AdaFactor and replaces gradient clipping. The means are unbiased because their decays change with the
step, not by a division afterwards, as in the paper. Equals `adamw` (up to rounding) while RMS is at most 1. Use it if
the loss has spikes: `optim.is=stable_adamw train.clip=0`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from encodery.train.optim import LrScale, Optimizer, uniform_lr
from encodery.train.optim._groups import parameter_groups, trainable, without_decay
from encodery.train.optim._moments import AdamMoments


@dataclass(frozen=True, kw_only=True)
class StableAdamW(Optimizer):
    """AdamW with update clipping per tensor."""

    def build(self, module: nn.Module, lr_scale: LrScale = uniform_lr) -> torch.optim.Optimizer:
        """The optimiser; its state is two means and a step count per parameter."""
        groups = parameter_groups(self, trainable(module), without_decay(module), lr_scale)
        return _StableAdamW(groups, betas=self.betas, eps=self.eps)


class _StableAdamW(AdamMoments):
    def update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        eps = group["eps"]
        first, second, _ = self.advance(group, params, grads, unbiased=True)
        denominator = torch._foreach_sqrt(second)
        norms = torch._foreach_norm(torch._foreach_div(grads, torch._foreach_clamp_min(denominator, eps)))
        rms = [(n / p.numel() ** 0.5).clamp_min(1.0) for n, p in zip(norms, params, strict=True)]
        rates = [group["lr"] / value for value in rms]
        torch._foreach_add_(denominator, eps)
        change = torch._foreach_div(first, denominator)
        if group["weight_decay"]:
            torch._foreach_add_(change, params, alpha=group["weight_decay"])
        torch._foreach_mul_(change, rates)
        torch._foreach_sub_(params, change)
