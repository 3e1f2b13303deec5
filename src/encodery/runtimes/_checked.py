"""What an engine asks of a packed batch before it is run, for native code trusts its input.

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
    """`width` H of what comes out; sizes that ids, segments and lengths stay below. `segments` is at least 1."""

    width: int
    vocab: int
    max_length: int
    segments: int

    @classmethod
    def of(cls, settings: ModelSettings) -> Limits:
        """Those of a model."""
        return cls(settings.width, settings.vocab_size, settings.max_length, max(settings.type_vocab_size, 1))


@dataclass(frozen=True, eq=False)
class CheckedBatch:
    """`ids` (T,), `cu_seqlens` (B+1,), `segment` (T,) or None: int32, contiguous, within a model's limits."""

    ids: np.ndarray
    cu_seqlens: np.ndarray
    segment: np.ndarray | None


def check_batch(ids: np.ndarray, cu_seqlens: np.ndarray, segment: np.ndarray | None, limits: Limits) -> CheckedBatch:
    """The batch, known to lie within the limits. Raises `InputError` naming what does not."""
    given = _whole(ids, "ids", limits.vocab)
    bounds = _whole(cu_seqlens, "cu_seqlens", 1 << 31)
    if len(bounds) < 2 or bounds[0] != 0 or bounds[-1] != len(given):
        raise InputError(f"cu_seqlens: must run from 0 to the {len(given)} tokens of the batch.")
    lengths = np.diff(bounds)
    if lengths.min() < 1:
        raise InputError("cu_seqlens: every sequence needs at least one token.")
    if lengths.max() > limits.max_length:
        raise InputError(f"A sequence of {lengths.max()} tokens is longer than the model's {limits.max_length}.")
    if segment is None:
        return CheckedBatch(given, bounds, None)
    parts = _whole(segment, "segment", limits.segments)
    if len(parts) != len(given):
        raise InputError(f"segment: has {len(parts)} entries for {len(given)} tokens.")
    return CheckedBatch(given, bounds, parts)


def _whole(values: np.ndarray, name: str, below: int) -> np.ndarray:
    found = np.asarray(values)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise InputError(f"{name}: a row of whole numbers is needed, not {found.dtype} of shape {found.shape}.")
    if found.size and not (found.min() >= 0 and found.max() < below):
        raise InputError(f"{name}: {found.min()} … {found.max()} is given, 0 … {below - 1} is allowed.")
    return np.ascontiguousarray(found, dtype=np.int32)
