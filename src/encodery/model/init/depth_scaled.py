"""Normal initialisation with smaller residual outputs in deeper models, by 1/sqrt(2·depth). arXiv:1909.08053

Differs from `normal` only in the layers by which attention and feed-forward write into the residual stream.
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
    """Use it for deep models.

    `std`: standard deviation of all weights but the residual outputs. Values beyond `cutoff` standard deviations are
    drawn again (null: kept).

        [model.init]
        is = "depth_scaled"
        std = 0.02
    """

    std: float = 0.02
    cutoff: float | None = None

    def fill(self, weight: Tensor, role: Role, shape: Shape, generator: torch.Generator) -> None:
        divisor = math.sqrt(2 * shape.depth) if role == "out" else 1.0
        fill_normal(weight, self.std / divisor, self.cutoff, generator)
