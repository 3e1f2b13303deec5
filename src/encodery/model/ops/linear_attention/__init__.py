"""Linear attention over packed sequences: products of positive features take the place of the softmax.

Every implementation has a function `attend` that takes a `LinearInputs` and the layout and returns (T, N, D). `naive`
is the reference, `chunked` costs linear time in the length of the sequences.
Shapes: T tokens, N heads, D head size.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

EPSILON = 1e-6
"""Added to the sum of the weights of a query, which may underflow."""


class LinearInputs(NamedTuple):
    """What linear attention reads. The weight of key j is query[i] · key[j] / Σ_k positive_query[i] · positive_key[k].

    Each is (T, N, D), and `positive_query` and `positive_key` are positive; the others may be the same, rotated.
    `causal`: whether only keys j <= i count.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    positive_query: Tensor
    positive_key: Tensor
    causal: bool = False
