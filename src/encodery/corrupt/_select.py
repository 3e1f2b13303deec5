"""Random choice on tensors: uniform keys, the lowest keys in whole units, unbiased rounding, first tokens.

Nothing here waits for the device unless it says so. T tokens, B sequences.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def uniform(count: int, generator: torch.Generator) -> Tensor:
    """Return (count,) float32, uniform in 0..1, on the generator's device."""
    return torch.rand(count, generator=generator, device=generator.device)


def stochastic_round(value: float, generator: torch.Generator) -> int:
    """Round `value` up or down at random so that the mean is `value`. Waits for the device."""
    down = math.floor(value + 1e-9)
    return down + int(float(uniform(1, generator)) < value - down)


def select_lowest(keys: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Return (T,) bool: the `count` lowest of `keys` (T,). Equal keys are one unit and are taken or left together.

    Without a generator the unit at the limit is always taken; with one, it is taken with the probability that makes
    the mean number of tokens `count`. Infinite keys are no candidates. (Two units draw the same key about once in
    sixteen million pairs; then they are one unit once, which does no harm.)
    """
    if count <= 0 or keys.numel() == 0:
        return torch.zeros_like(keys, dtype=torch.bool)
    limit = torch.topk(keys, min(count, keys.numel()), largest=False, sorted=False).values.max()
    if generator is None:
        return (keys <= limit) & keys.isfinite()
    below, at = keys < limit, keys == limit
    take_limit = uniform(1, generator) * at.sum() < count - below.sum()
    return (below | (at & take_limit)) & keys.isfinite()


def sequence_starts(cu_seqlens: Tensor, length: int) -> Tensor:
    """Return (T,) bool: the first token of each sequence; `cu_seqlens` (B+1,) ends at T, sequences may be empty."""
    starts = torch.zeros(length + 1, dtype=torch.bool, device=cu_seqlens.device)
    return starts.index_fill(0, cu_seqlens.long(), True)[:-1]
