"""Keeps the first dimensions of a vector, for models trained with the loss `matryoshka`. arXiv:2205.13147

Put `normalise` after it. Shapes: N vectors, K dimensions kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from encodery.base.settings import check_at_least
from encodery.encoders.postprocess import PostProcess, State


@dataclass(frozen=True, kw_only=True)
class Truncate(PostProcess):
    """`keep`: the number of dimensions; a shorter vector stays as it is.

    Use it when a matryoshka model's vectors are larger than needed:

        postprocess = [{is = "truncate", keep = 64}, "normalise"]
    """

    is_linear: ClassVar[bool] = True
    keep: int = 64

    def __post_init__(self) -> None:
        check_at_least(self, 1, "keep")

    def apply(self, vectors: np.ndarray, state: State) -> np.ndarray:
        return vectors[:, : self.keep]

    def output_dim(self, width: int) -> int:
        return min(self.keep, width)
