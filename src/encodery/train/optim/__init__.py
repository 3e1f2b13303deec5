"""Optimisers: from gradients to new weights.

A part builds a `torch.optim.Optimizer` whose groups hold the names of the parameters, the peak learning rate, and
whether weight decay applies (`_groups`). The loop sets the learning rate of each step (`optimizer_state.set_lr`)."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from encodery.base.errors import SettingsError
from encodery.base.parts import Part

LrScale = Callable[[str], float]
"""Name of a parameter -> the factor on its learning rate, besides the schedule."""


def uniform_lr(name: str) -> float:
    """The same learning rate for all parameters."""
    return 1.0


@dataclass(frozen=True, kw_only=True)
class Optimizer(Part):
    """Contract of an optimiser.

    `lr` is the peak learning rate, which a schedule multiplies. `weight_decay` is decoupled and multiplied by the
    learning rate, as in `torch`. `betas` are the decays of the means of gradient and squared gradient, `eps` guards the
    division."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.01

    supports_fsdp: ClassVar[bool] = True
    """Whether it can update a shard of a weight without the rest."""

    follows_lr_rule: ClassVar[bool] = False
    """Whether `scaling_rules.default_lr` holds for it."""

    def __post_init__(self) -> None:
        for name in ("lr", "eps"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name} = {getattr(self, name)}: must be above 0.")
        if self.weight_decay < 0:
            raise SettingsError(f"weight_decay = {self.weight_decay}: must be at least 0.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise SettingsError(f"betas = {self.betas}: each must be at least 0 and below 1.")

    @abc.abstractmethod
    def build(self, module: nn.Module, lr_scale: LrScale = uniform_lr) -> torch.optim.Optimizer:
        """The optimiser of every parameter of `module` that requires a gradient, on the device where they are.

        Its state must consist of tensors. The keys of its groups are those of `_groups.parameter_groups`.
        """
