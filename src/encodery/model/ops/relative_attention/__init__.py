"""Attention over packed sequences whose scores have products with embeddings of distances. arXiv:2006.03654

The score of query i and key j is query_i · key_j, plus query_i · keys[index of j - i], plus queries[index of j - i] ·
key_j, all divided by √(number of products · D). Every implementation has a function `attend` that takes `qkv`
(T, 3, N, D), the layout, an `AttentionSpec`, the bias by distance (N, 2R - 1) or None and the `RelativeTerms`, and
returns (T, N, D). `naive` is the reference; `grouped` computes sequences of equal length together.
Shapes: T tokens, N heads, D head size, R longest sequence, P embeddings of distances.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class RelativeTerms:
    """Keys and queries of distances.

    `index` (2R - 1,) int64: the entry of `keys` and `queries` at distance key - query = r is `index[R - 1 + r]`, for R
    of at least the longest sequence. `keys` (P, N, D): multiplied with the queries of tokens; `queries` (P, N, D):
    multiplied with the keys of tokens; None for no such product.
    """

    index: Tensor
    keys: Tensor | None
    queries: Tensor | None

    @property
    def products(self) -> int:
        """How many products a score is the sum of, that of query and key included."""
        return 1 + (self.keys is not None) + (self.queries is not None)
