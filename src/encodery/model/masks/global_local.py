"""Window mask with global positions, which attend to all tokens and all tokens to them. arXiv:2004.05150

Differs from `window`: a few positions, such as that of [CLS], connect distant tokens in every layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from encodery.base.settings import check_at_least
from encodery.model.masks import Mask
from encodery.model.reach import Reach


@dataclass(frozen=True, kw_only=True)
class GlobalLocalMask(Mask):
    """Use it for long documents whose first token stands for the whole, as in classification.

    `size` is the half-width of the window, `positions` are the global positions, counted from 0.

        [model.mask]
        is = "global_local"
        size = 64
    """

    size: int = 64
    positions: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        check_at_least(self, 0, "size")
        self.reach(0, 1)

    def reach(self, layer: int, depth: int) -> Reach:
        return Reach(self.size, self.size, global_positions=self.positions)
