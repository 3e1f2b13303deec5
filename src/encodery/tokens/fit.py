"""Filling a budget of tokens with sequences, and dealing a batch to ranks.

Shapes: n pieces, given by their starts and lengths in the ids of a split.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from encodery.tokens.chunks import chunk_bounds
from encodery.tokens.shuffle import Integers

MIN_CHUNK = 16


def min_chunk_length(size: int) -> int:
    """The shortest piece that cutting for pieces of `size` may leave."""
    return min(MIN_CHUNK, size // 2)


def split_long(starts: Integers, lengths: Integers, size: int) -> tuple[Integers, Integers]:
    """Cut pieces longer than `size` into as many as needed, in place of the long one."""
    if not len(lengths) or lengths.max() <= size:
        return starts, lengths
    parts = -(-lengths // size)
    index = np.repeat(np.arange(len(lengths)), parts)
    part = np.arange(len(index)) - np.repeat(np.cumsum(parts) - parts, parts)
    begins, sizes = chunk_bounds(lengths[index], part, size, min_chunk_length(size))
    return starts[index] + begins, sizes


def add_best_fitting(sizes: Integers, chosen: npt.NDArray[np.bool_], room: int) -> int:
    """Mark the best-fitting of `sizes` in `chosen` until none fits; the room that stays."""
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
    """Move the beginning of the piece that fills `room` best into the batch; both parts keep `shortest` tokens."""
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
    """(n,) which rank takes each of n sequences sorted from long to short, as for MLPerf's unpadded BERT.

    In each round of `world` sequences the longest goes to the rank with the least so far. What is evened out is n
    tokens' cost n · (1 + n / `even`): `even` is the length at which attention costs as much as all else. Shares of
    tokens (without `even`) differ by at most the longest less the shortest sequence; numbers of sequences by one.
    """
    costs = sizes * (1 + sizes / break_even_length)
    seats, loads = np.empty(len(sizes), np.int64), np.zeros(world)
    for start in range(0, len(sizes), world):
        some = costs[start : start + world]
        free = np.argsort(loads, kind="stable")[: len(some)]
        seats[start : start + world] = free
        loads[free] += some
    return seats
