"""Checks a packed batch before an engine runs it, since native code trusts its input.

Shapes: T tokens, B sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from encodery.base.errors import InputError

if TYPE_CHECKING:
    from encodery.model.settings import ModelSettings


@dataclass(frozen=True)
class Limits:
    """The width H of the hidden states, and upper limits: ids stay below `vocab_size`, segments below `type_vocab_size`
    (at least 1), lengths do not exceed `max_length`."""

    width: int
    vocab_size: int
    max_length: int
    type_vocab_size: int

    @classmethod
    def of(cls, settings: ModelSettings) -> Limits:
        """Return the limits of a model."""
        return cls(settings.width, settings.vocab_size, settings.max_length, max(settings.type_vocab_size, 1))


@dataclass(frozen=True, eq=False)
class CheckedBatch:
    """`ids` (T,), `cu_seqlens` (B+1,), `segment` (T,) or None: int32, contiguous, within a model's limits."""

    ids: np.ndarray
    cu_seqlens: np.ndarray
    segment: np.ndarray | None


def check_batch(ids: np.ndarray, cu_seqlens: np.ndarray, segment: np.ndarray | None, limits: Limits) -> CheckedBatch:
    """Return the batch as int32 arrays. Raises `InputError` that names the array outside the limits."""
    ids = _int32(ids, "ids", limits.vocab_size)
    bounds = _int32(cu_seqlens, "cu_seqlens", 1 << 31)
    if len(bounds) < 2 or bounds[0] != 0 or bounds[-1] != len(ids):
        raise InputError(f"cu_seqlens: must run from 0 to the {len(ids)} tokens of the batch.")
    lengths = np.diff(bounds)
    if lengths.min() < 1:
        raise InputError("cu_seqlens: every sequence needs at least one token.")
    if lengths.max() > limits.max_length:
        raise InputError(f"A sequence of {lengths.max()} tokens is longer than the model's {limits.max_length}.")
    if segment is None:
        return CheckedBatch(ids, bounds, None)
    segment = _int32(segment, "segment", limits.type_vocab_size)
    if len(segment) != len(ids):
        raise InputError(f"segment: has {len(segment)} entries for {len(ids)} tokens.")
    return CheckedBatch(ids, bounds, segment)


def _int32(values: np.ndarray, name: str, upper: int) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(f"{name}: must be one-dimensional whole numbers, not {array.dtype} of shape {array.shape}.")
    if array.size and not (array.min() >= 0 and array.max() < upper):
        raise InputError(f"{name}: holds {array.min()} … {array.max()}; 0 … {upper - 1} is allowed.")
    return np.ascontiguousarray(array, dtype=np.int32)
