"""Batches on the CPU, one on each core, in place of one batch spread over all of them.

Cores that share a batch wait for each other at every operation, the longer the more else the machine does; cores with
a batch each do not wait. The model is shared, and each batch is computed as it would be on one core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

W = TypeVar("W")
R = TypeVar("R")
FEWEST_TOKENS = 512  # of a batch, below which products of matrices lose speed


def batch_budget(tokens: int, device: torch.device) -> int:
    """Tokens of one batch, where `tokens` are computed at once in all."""
    if device.type != "cpu":
        return tokens
    return min(tokens, max(FEWEST_TOKENS, tokens // torch.get_num_threads()))


def map_batches(compute: Callable[[W], R], work: Sequence[W], device: torch.device) -> Iterator[R]:
    """The results in the order of `work`; side by side where there are at least as many pieces as threads."""

    def alone(piece: W) -> R:
        with torch.inference_mode():
            return compute(piece)

    threads = torch.get_num_threads()
    if device.type != "cpu" or threads < 2 or len(work) < threads:
        yield from map(alone, work)
        return
    # The number of threads is each thread's own, but threads begun later take the last one that was set anywhere.
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield from pool.map(alone, work)
        finally:
            torch.set_num_threads(threads)
