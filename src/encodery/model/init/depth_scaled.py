"""Normal initialisation whose residual outputs shrink with depth, by 1/sqrt(2·depth). arXiv:1909.08053

Differs from `normal`: only in what attention and feed-forward write into the residual stream.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.model.init import Init
from encodery.model.init._draw import fill_normal
from encodery.model.shape import Shape
from encodery.model.weights import Role


@dataclass(frozen=True, kw_only=True)
class DepthScaledInit(Init):
    """`std` is the spread of all but the residual outputs; values beyond `cutoff` spreads are drawn anew."""

    std: float = 0.02
    cutoff: float | None = None

    def fill(self, weight: Tensor, role: Role, shape: Shape, generator: torch.Generator) -> None:
        share = math.sqrt(2 * shape.depth) if role == "out" else 1.0
        fill_normal(weight, self.std / share, self.cutoff, generator)
