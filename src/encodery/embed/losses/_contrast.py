"""What is no wrong answer: masks over in-batch candidates. Shapes: B examples, C columns."""

from __future__ import annotations

import torch
from torch import Tensor

from encodery.embed.losses import Given


def same(given: Given, one: int, other: int) -> Tensor:
    """(B, B) bool: whether text i of column `one` is text j of column `other`; nothing where texts are not told."""
    size, device = given.size, given.vectors[0].device
    if given.texts is None:
        return torch.zeros(size, size, dtype=torch.bool, device=device)
    return given.texts[one][:, None] == given.texts[other][None, :]


def own(given: Given) -> Tensor:
    """(B, B) bool: the diagonal."""
    return torch.eye(given.size, dtype=torch.bool, device=given.vectors[0].device)


def kin(given: Given) -> Tensor:
    """(B, B) bool: whether examples i and j ask the same or have the same answer; the diagonal is among them."""
    return same(given, 0, 0) | same(given, 1, 1) | own(given)
