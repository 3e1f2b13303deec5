"""Weighted means and softmax over the sequences of a packed batch, in float32.

Shapes: T tokens, B sequences, H width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from encodery.model.shape import Batch


def weighted_mean(values: Tensor, weights: Tensor, batch: Batch) -> Tensor:
    """Values (T, H) and weights (T,) → (B, H): Σ weight · value / Σ weight over each sequence."""
    values, weights = values.float(), weights.float()
    sequence_ids = batch.layout.sequence_ids
    sums = values.new_zeros(len(batch), values.shape[1]).index_add(0, sequence_ids, values * weights[:, None])
    totals = weights.new_zeros(len(batch)).index_add(0, sequence_ids, weights)
    return sums / totals[:, None]


def softmax(scores: Tensor, batch: Batch) -> Tensor:
    """Scores (T,) → weights (T,) that sum to 1 over each sequence."""
    scores = scores.float()
    sequence_ids = batch.layout.sequence_ids
    highest = scores.new_full((len(batch),), -torch.inf).scatter_reduce(0, sequence_ids, scores.detach(), "amax")
    exponentials = (scores - highest[sequence_ids]).exp()
    totals = exponentials.new_zeros(len(batch)).index_add(0, sequence_ids, exponentials)
    return exponentials / totals[sequence_ids]
