"""Linear attention by its formula: one sequence after another, with whole matrices of weights. The reference.

Shapes: T tokens, L length of one sequence, N heads, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from encodery.model.ops.linear_attention import EPSILON, LinearInputs
from encodery.model.shape import Layout


def attend(inputs: LinearInputs, layout: Layout) -> Tensor:
    """(T, N, D) each → (T, N, D)."""
    parts: list[Tensor] = []
    start = 0
    for length in layout.lengths:
        query, key, value, positive_query, positive_key = (
            tensor[start : start + length].transpose(0, 1) for tensor in inputs[:5]
        )
        weights, positive = query @ key.transpose(1, 2), positive_query @ positive_key.transpose(1, 2)
        if inputs.causal:
            weights, positive = weights.tril(), positive.tril()
        parts.append((weights @ value / (positive.sum(-1, keepdim=True) + EPSILON)).transpose(0, 1))
        start += length
    return torch.cat(parts)
