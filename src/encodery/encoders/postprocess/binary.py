"""One bit per dimension: whether the value is above the sample's median. arXiv:2106.00882 (two-stage search by bits)

The output is ±1 / √H, so that inner products count equal bits and are cosines; `codes` gives the packed bits.
Shapes: N vectors, H width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from encodery.encoders.postprocess import PostProcess, State


@dataclass(frozen=True, kw_only=True)
class Binary(PostProcess):
    """`centred`: the threshold of each dimension is its median in the sample, which makes a bit carry most information;
    if false it is zero.

    Use it when the vectors of an index must fit into one bit per dimension:

        postprocess = ["normalise", "binary"]
    """

    unsupported: ClassVar[frozenset[str]] = frozenset({"linear"})

    centred: bool = True

    def fit(self, vectors: np.ndarray) -> State:
        middle = np.median(vectors, axis=0) if self.centred else np.zeros(vectors.shape[1])
        return {"middle": middle.astype(np.float32)}

    def codes(self, vectors: np.ndarray, state: State) -> np.ndarray:
        """(N, ceil(H / 8)) uint8, the first dimension in the highest bit."""
        return np.packbits(vectors > state["middle"], axis=1)

    def apply(self, vectors: np.ndarray, state: State) -> np.ndarray:
        signs = np.where(vectors > state["middle"], np.float32(1), np.float32(-1))
        processed: np.ndarray = signs / np.float32(np.sqrt(vectors.shape[1]))
        return processed
