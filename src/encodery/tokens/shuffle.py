"""Counter-based randomness for the loader: a hash of numbers, and a permutation that needs no memory.

A permutation of 0..count-1 is computed entry by entry by a Feistel network over the pairs (left, right) of an a x b
grid just larger than count (numbers outside are sent through again: cycle walking). So a shuffled epoch of any size
costs no array, any position of it can be computed at once, and its whole state is its key. The results do not depend on
the version of numpy.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from encodery.base.machine import derive_seed

Integers = npt.NDArray[np.int64]
ROUNDS = 4


def hash_under_key(numbers: Integers, key: int) -> npt.NDArray[np.uint64]:
    """Return a uniform 64-bit hash of each number under a key (the SplitMix64 finalizer)."""
    z = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def permute(numbers: Integers, count: int, key: int) -> Integers:
    """Return where each of `numbers` (in 0..count-1) goes in the permutation of 0..count-1 named by `key`."""
    if count <= 1:
        return numbers.copy()
    rows = math.isqrt(count - 1) + 1
    columns = -(-count // rows)
    keys = [derive_seed(key, turn) for turn in range(2 * ROUNDS)]
    moved = _walk(numbers, rows, columns, keys)
    outside = np.flatnonzero(moved >= count)
    while len(outside):
        moved[outside] = _walk(moved[outside], rows, columns, keys)
        outside = outside[moved[outside] >= count]
    return moved


def _walk(numbers: Integers, rows: int, columns: int, keys: list[int]) -> Integers:
    left, right = numbers // columns, numbers % columns
    for turn in range(0, len(keys), 2):
        left = (left + scale_hashes(hash_under_key(right, keys[turn]), rows)) % rows
        right = (right + scale_hashes(hash_under_key(left, keys[turn + 1]), columns)) % columns
    return left * columns + right


def scale_hashes(hashes: npt.NDArray[np.uint64], bound: int | Integers) -> Integers:
    """Scale hashes to numbers in 0..bound-1; `bound` is at most 2**31, one number or one per hash."""
    scaled = (hashes >> np.uint64(33)) * np.asarray(bound, dtype=np.uint64)
    return (scaled >> np.uint64(31)).astype(np.int64)
