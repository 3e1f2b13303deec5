"""Initialisation by fan-in: a standard deviation of 1/sqrt(inputs) preserves the scale of activations.

Differs from `normal`: narrow models get larger weights. Tables have their own standard deviation; residual
outputs may start at zero, so that every block starts as the identity (arXiv:2203.03466, appendix D.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.model.init import Init
from encodery.model.init._draw import fill_normal
from encodery.model.shape import Shape
from encodery.model.weights import Role


@dataclass(frozen=True, kw_only=True)
class FanInInit(Init):
    """Use it for models of many widths that should train alike.

    `gain` multiplies 1/sqrt(inputs); `embedding_std` is the standard deviation of the tables; with `zero_out` residual
    outputs start at 0.

        [model.init]
        is = "fan_in"
        zero_out = true
    """

    gain: float = 1.0
    embedding_std: float = 0.02
    zero_out: bool = False

    def fill(self, weight: Tensor, role: Role, shape: Shape, generator: torch.Generator) -> None:
        if role == "out" and self.zero_out:
            weight.zero_()
        elif role == "embedding":
            fill_normal(weight, self.embedding_std, None, generator)
        else:
            fill_normal(weight, self.gain * weight.shape[1] ** -0.5, None, generator)
