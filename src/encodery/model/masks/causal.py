"""Causal mask: a token attends to itself and to the tokens before it, in every layer. arXiv:1706.03762

Differs from `document`: nothing on the right is within reach. `size` limits the reach on the left.
"""

from __future__ import annotations

from dataclasses import dataclass

from encodery.base.settings import check_at_least
from encodery.model.masks import Mask
from encodery.model.reach import Reach


@dataclass(frozen=True, kw_only=True)
class CausalMask(Mask):
    """Use it for a model that predicts the next token. A batch alone can be causal with `Batch.reach`.

    `size` is the number of tokens on the left that a token attends to (null: all).

        [model]
        mask = "causal"
    """

    size: int | None = None

    def __post_init__(self) -> None:
        check_at_least(self, 0, "size")

    def reach(self, layer: int, depth: int) -> Reach:
        return Reach(self.size, 0)
