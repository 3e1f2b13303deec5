"""Prefix mask: the first tokens attend to each other in both directions, all others causally. arXiv:1905.03197

Differs from `causal`: every token attends to the whole prefix, whose length may differ between sequences.
"""

from __future__ import annotations

from dataclasses import dataclass

from encodery.base.settings import check_at_least
from encodery.model.masks import Mask
from encodery.model.reach import Reach


@dataclass(frozen=True, kw_only=True)
class PrefixMask(Mask):
    """Use it for a prefix language model: a bidirectional input, and an output that is predicted from left to right.

    `length` is the number of tokens of every prefix. A batch can have a longer one for each sequence (`Batch.prefix`).

        [model.mask]
        is = "prefix"
        length = 16
    """

    length: int = 0

    def __post_init__(self) -> None:
        check_at_least(self, 0, "length")

    def reach(self, layer: int, depth: int) -> Reach:
        return Reach(right=0, prefix=self.length)
