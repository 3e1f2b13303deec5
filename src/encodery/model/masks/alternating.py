"""Alternating mask: one global layer, then local ones, repeatedly. arXiv:2412.13663

Differs from `window`: layers 0, every, 2·every … attend to the whole document. Equals `document` if every = 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from encodery.base.settings import check_at_least
from encodery.model.masks import Mask
from encodery.model.reach import Reach


@dataclass(frozen=True, kw_only=True)
class AlternatingMask(Mask):
    """Use it for long documents: most layers cost linear time, and global layers carry information across the document.

    `size` is the half-width of local layers; layer i is global if (i - first) is a multiple of `every`.

        [model.mask]
        is = "alternating"
        size = 64
    """

    size: int = 64
    every: int = 3
    first: int = 0

    def __post_init__(self) -> None:
        check_at_least(self, 0, "size")
        check_at_least(self, 1, "every")

    def reach(self, layer: int, depth: int) -> Reach:
        return Reach() if (layer - self.first) % self.every == 0 else Reach(self.size, self.size)
