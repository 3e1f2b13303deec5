"""What is no wrong answer: masks over in-batch candidates. Shapes: B examples, C columns."""

from __future__ import annotations

import torch
from torch import Tensor

from encodery.embed.losses import LossInputs


def same_text(inputs: LossInputs, one: int, other: int) -> Tensor:
    """(B, B) bool: whether text i of column `one` is text j of column `other`; nothing where texts are not told."""
    size, device = inputs.batch_size, inputs.vectors[0].device
    if inputs.texts is None:
        return torch.zeros(size, size, dtype=torch.bool, device=device)
    return inputs.texts[one][:, None] == inputs.texts[other][None, :]


def diagonal(inputs: LossInputs) -> Tensor:
    """(B, B) bool: the diagonal."""
    return torch.eye(inputs.batch_size, dtype=torch.bool, device=inputs.vectors[0].device)


def shares_text(inputs: LossInputs) -> Tensor:
    """(B, B) bool: whether examples i and j ask the same or have the same answer; the diagonal is among them."""
    return same_text(inputs, 0, 0) | same_text(inputs, 1, 1) | diagonal(inputs)
