"""Batches in parallel on the CPU: one batch on each core instead of one batch on all cores.

Cores that share a batch wait for each other at every operation, and longer the busier the machine is. Cores with a
batch each do not wait. The model is shared, and each batch is computed as it would be on one core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

W = TypeVar("W")
R = TypeVar("R")
MIN_BATCH_TOKENS = 512  # Matrix products of smaller batches are slower per token.


def batch_budget(tokens: int, device: torch.device) -> int:
    """Tokens of one batch if `tokens` are computed at once in all."""
    if device.type != "cpu":
        return tokens
    return min(tokens, max(MIN_BATCH_TOKENS, tokens // torch.get_num_threads()))


def map_batches(compute: Callable[[W], R], batches: Sequence[W], device: torch.device) -> Iterator[R]:
    """`compute` of each batch, in the order of `batches`; in parallel on a CPU with as many batches as threads."""

    def run(batch: W) -> R:
        with torch.inference_mode():
            return compute(batch)

    threads = torch.get_num_threads()
    if device.type != "cpu" or threads < 2 or len(batches) < threads:
        yield from map(run, batches)
        return
    # Each thread has its own number of torch threads; a new thread takes the last number that was set in any thread.
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield from pool.map(run, batches)
        finally:
            torch.set_num_threads(threads)
