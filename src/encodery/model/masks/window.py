"""Window mask: in every layer a token attends to a window around it. arXiv:2004.05150

Differs from `document`: the cost is linear in the length. Equals it for documents of at most size + 1 tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from encodery.base.settings import check_at_least
from encodery.model.masks import Mask
from encodery.model.reach import Reach


@dataclass(frozen=True, kw_only=True)
class WindowMask(Mask):
    """Use it for long documents whose tokens depend on their neighbourhood only.

    `size` is the half-width: a token attends to `size` neighbours on each side.

        [model.mask]
        is = "window"
        size = 64
    """

    size: int = 64

    def __post_init__(self) -> None:
        check_at_least(self, 0, "size")

    def reach(self, layer: int, depth: int) -> Reach:
        return Reach(self.size, self.size)
