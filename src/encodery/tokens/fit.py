"""Fills a budget of tokens with sequences, and balances a batch over ranks.

Shapes: n pieces, each a start and a length in the ids of a split.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from encodery.tokens.chunks import chunk_bounds
from encodery.tokens.shuffle import Integers

MIN_CHUNK = 16


def min_chunk_length(size: int) -> int:
    """Return the length of the shortest piece that dividing pieces of `size` may leave."""
    return min(MIN_CHUNK, size // 2)


def split_long(starts: Integers, lengths: Integers, size: int) -> tuple[Integers, Integers]:
    """Divide pieces longer than `size` into as many as needed, in their place."""
    if not len(lengths) or lengths.max() <= size:
        return starts, lengths
    parts = -(-lengths // size)
    index = np.repeat(np.arange(len(lengths)), parts)
    part = np.arange(len(index)) - np.repeat(np.cumsum(parts) - parts, parts)
    begins, sizes = chunk_bounds(lengths[index], part, size, min_chunk_length(size))
    return starts[index] + begins, sizes


def add_best_fitting(sizes: Integers, chosen: npt.NDArray[np.bool_], room: int) -> int:
    """Mark the best-fitting of `sizes` in `chosen` until none fits; return the room that is left."""
    while True:
        fitting = np.where((sizes <= room) & ~chosen, sizes, 0)
        best = int(fitting.argmax()) if len(fitting) else 0
        if not len(fitting) or not fitting[best]:
            return room
        chosen[best] = True
        room -= int(fitting[best])


def split_to_fit(
    batch: tuple[Integers, Integers], starts: Integers, lengths: Integers, room: int, min_chunk: int
) -> tuple[tuple[Integers, Integers], Integers, Integers]:
    """Move the beginning of the piece that fills `room` best into the batch; both parts keep `min_chunk` tokens."""
    sizes = np.minimum(lengths - min_chunk, room)
    at = int(sizes.argmax())
    size = int(sizes[at])
    if size < min_chunk:
        return batch, starts, lengths
    batch = np.append(batch[0], starts[at]), np.append(batch[1], size)
    starts, lengths = starts.copy(), lengths.copy()
    starts[at] += size
    lengths[at] -= size
    return batch, starts, lengths


def balance(sizes: Integers, world: int, break_even_length: float = np.inf) -> Integers:
    """Return (n,) the rank of each of n sequences, sorted from long to short, as for MLPerf's unpadded BERT.

    In each round of `world` sequences the longest goes to the rank with the least load so far. The load of n tokens is
    n · (1 + n / `break_even_length`), the latter being the length at which attention costs as much as everything else.
    Without it the tokens of ranks differ by at most the longest less the shortest sequence; the numbers of sequences
    always differ by at most one.
    """
    costs = sizes * (1 + sizes / break_even_length)
    ranks, loads = np.empty(len(sizes), np.int64), np.zeros(world)
    for start in range(0, len(sizes), world):
        round_costs = costs[start : start + world]
        least_loaded = np.argsort(loads, kind="stable")[: len(round_costs)]
        ranks[start : start + world] = least_loaded
        loads[least_loaded] += round_costs
    return ranks
