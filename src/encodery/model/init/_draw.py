"""Draws from normal and from truncated normal distributions."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def fill_normal(weight: Tensor, std: float, cutoff: float | None, generator: torch.Generator) -> None:
    """Fill `weight` in place from a normal distribution, truncated at `cutoff` standard deviations (None: not)."""
    if cutoff is None:
        nn.init.normal_(weight, std=std, generator=generator)
    else:
        nn.init.trunc_normal_(weight, std=std, a=-cutoff * std, b=cutoff * std, generator=generator)
