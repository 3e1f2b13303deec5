"""AdamW: Adam with decoupled weight decay (arXiv:1711.05101), from `torch`, fused if the kernel exists.

The default, and the one to use first: `optim.is=adamw optim.lr=1e-3`. On a CPU the fused kernel makes one pass over
memory, the others one per operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from encodery.train.optim import LrScale, Optimizer, uniform_lr
from encodery.train.optim._groups import parameter_groups, trainable, without_decay

FUSED_DEVICES = {"cpu", "cuda", "xpu", "mps"}


@dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay."""

    follows_lr_rule: ClassVar[bool] = True

    def build(self, module: nn.Module, lr_scale: LrScale = uniform_lr) -> torch.optim.Optimizer:
        """`torch.optim.AdamW`, fused on devices and dtypes that have the kernel."""
        named = trainable(module)
        fused = all(p.device.type in FUSED_DEVICES and p.is_floating_point() for _, p in named)
        kernel = {"fused": True} if fused else {"foreach": True}
        groups = parameter_groups(self, named, without_decay(module), lr_scale)
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, **kernel)
