"""Masks of false negatives among the candidates of a batch. Shapes: B examples, C columns."""

from __future__ import annotations

import torch
from torch import Tensor

from encodery.embed.loss_inputs import LossInputs


def same_text(inputs: LossInputs, first: int, second: int) -> Tensor:
    """Return (B, B) bool: whether text i of column `first` is text j of column `second`; False if texts are unknown."""
    size = inputs.batch_size
    if inputs.texts is None:
        return torch.zeros(size, size, dtype=torch.bool, device=inputs.device)
    return inputs.texts[first][:, None] == inputs.texts[second][None, :]


def diagonal(inputs: LossInputs) -> Tensor:
    """Return (B, B) bool: the diagonal."""
    return torch.eye(inputs.batch_size, dtype=torch.bool, device=inputs.device)


def shares_text(inputs: LossInputs) -> Tensor:
    """Return (B, B) bool: whether examples i and j have the same anchor or the same positive; True on the diagonal."""
    return same_text(inputs, 0, 0) | same_text(inputs, 1, 1) | diagonal(inputs)
