"""Window mask with sinks: a window, and the first tokens of the document. arXiv:2309.17453

Differs from `window`: the first tokens, to which softmax attention gives the weight that it has no other use for, stay
within reach however long the document is. Equals it if sinks = 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from encodery.base.settings import check_at_least
from encodery.model.masks import Mask
from encodery.model.reach import Reach


@dataclass(frozen=True, kw_only=True)
class SinkMask(Mask):
    """Use it for documents that are much longer than the window, or longer than those of training.

    `size` is the half-width of the window, `sinks` the number of first tokens that stay within reach. With `causal` the
    window has no right half.

        [model.mask]
        is = "sinks"
        size = 64
    """

    size: int = 64
    sinks: int = 4
    causal: bool = False

    def __post_init__(self) -> None:
        check_at_least(self, 0, "size", "sinks")

    def reach(self, layer: int, depth: int) -> Reach:
        return Reach(self.size, 0 if self.causal else self.size, sinks=self.sinks)
