"""Normal initialisation, with one standard deviation for all weights. arXiv:1810.04805"""

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
    """Use it for the initialisation of BERT.

    `std` is the standard deviation. Values beyond `cutoff` standard deviations are drawn again (null: kept).

        [model.init]
        is = "normal"
        std = 0.02
    """

    std: float = 0.02
    cutoff: float | None = None

    def fill(self, weight: Tensor, role: Role, shape: Shape, generator: torch.Generator) -> None:
        fill_normal(weight, self.std, self.cutoff, generator)
