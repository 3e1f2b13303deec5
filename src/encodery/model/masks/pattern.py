"""Pattern mask: the listed layers attend to the whole document, all others are local.

Differs from `alternating`: any layers, not every n-th. Equals `window` for an empty list.
"""

from __future__ import annotations

from dataclasses import dataclass

from encodery.base.settings import check_at_least
from encodery.model.masks import Mask
from encodery.model.reach import Reach


@dataclass(frozen=True, kw_only=True)
class PatternMask(Mask):
    """Use it if the global layers are not regularly spaced.

    `size` is the half-width of local layers; `global_layers` lists the layers (from 0) that are not local.

        [model.mask]
        is = "pattern"
        global_layers = [0, 5]
    """

    size: int = 64
    global_layers: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        check_at_least(self, 0, "size")

    def reach(self, layer: int, depth: int) -> Reach:
        return Reach() if layer in self.global_layers else Reach(self.size, self.size)
