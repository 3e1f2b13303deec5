"""Weighted means over the sequences of a packed batch, in float32. Shapes: T tokens, B sequences, H width."""

from __future__ import annotations

import torch
from torch import Tensor

from encodery.model.shape import Batch


def weighted_mean(values: Tensor, weights: Tensor, batch: Batch) -> Tensor:
    """Values (T, H) and weights (T,) → (B, H) Σ weight · value / Σ weight of each sequence."""
    values, weights = values.float(), weights.float()
    sequence = batch.layout.sequence_ids
    total = values.new_zeros(len(batch), values.shape[1]).index_add(0, sequence, values * weights[:, None])
    whole = weights.new_zeros(len(batch)).index_add(0, sequence, weights)
    return total / whole[:, None]


def softmax(scores: Tensor, batch: Batch) -> Tensor:
    """Scores (T,) → (T,) shares that sum to 1 in each sequence."""
    scores = scores.float()
    sequence = batch.layout.sequence_ids
    highest = scores.new_full((len(batch),), -torch.inf).scatter_reduce(0, sequence, scores.detach(), "amax")
    powers = (scores - highest[sequence]).exp()
    whole = powers.new_zeros(len(batch)).index_add(0, sequence, powers)
    return powers / whole[sequence]
