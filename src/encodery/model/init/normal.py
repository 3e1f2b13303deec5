"""Normal initialisation, one spread for all. arXiv:1810.04805"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.model.init import Init
from encodery.model.init._draw import fill_normal
from encodery.model.shape import Shape
from encodery.model.weights import Role


@dataclass(frozen=True, kw_only=True)
class NormalInit(Init):
    """`std` is the spread; values beyond `cutoff` spreads are drawn anew (None: kept)."""

    std: float = 0.02
    cutoff: float | None = None

    def fill(self, weight: Tensor, role: Role, shape: Shape, generator: torch.Generator) -> None:
        fill_normal(weight, self.std, self.cutoff, generator)
