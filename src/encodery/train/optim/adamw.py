"""AdamW: Adam with decoupled weight decay (arXiv 1711.05101), from `torch`, fused where the kernel exists.

The default part. On a CPU the fused kernel makes one pass over memory, where the others make one per operation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from encodery.train.optim import LrScale, Optimizer, trainable, uniform_lr, without_decay

FUSED_DEVICES = {"cpu", "cuda", "xpu", "mps"}


@dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay."""

    def build(self, module: nn.Module, lr_scale: LrScale = uniform_lr) -> torch.optim.Optimizer:
        """`torch.optim.AdamW`, fused on devices and dtypes that have the kernel."""
        named = trainable(module)
        fused = all(p.device.type in FUSED_DEVICES and p.is_floating_point() for _, p in named)
        how = {"fused": True} if fused else {"foreach": True}
        return torch.optim.AdamW(
            self.groups(named, without_decay(module), lr_scale), lr=self.lr, betas=self.betas, eps=self.eps, **how
        )
