"""Checks of runtimes, each against the contract on a small random model."""

from __future__ import annotations

import functools
import itertools

import numpy as np

from encodery.base.errors import InputError
from encodery.base.settings import decode, encode
from encodery.checks import raised_message
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.runtimes.engine import InferenceEngine
from encodery.runtimes.kind import Runtime

SETTINGS = ModelSettings(width=32, depth=2, heads=4, vocab_size=90, max_length=20, type_vocab_size=2)
IDS = np.arange(30, dtype=np.int64) * 7 % 90
CU_SEQLENS = np.array([0, 1, 21, 30], np.int32)
INVALID: tuple[tuple[list[float], list[int], list[int] | None, str], ...] = (
    ([3, 90], [0, 2], None, "0 … 89 is allowed"),
    ([3, -1], [0, 2], None, "0 … 89 is allowed"),
    ([3, 4], [0, 3], None, "from 0 to the 2 tokens"),
    ([3, 4], [1, 2], None, "from 0 to the 2 tokens"),
    ([3, 4], [0, 0, 2], None, "at least one token"),
    ([3, 4, 5], [0, 2, 1, 3], None, "at least one token"),
    ([3] * 21, [0, 21], None, "21 tokens is longer than the model's 20"),
    ([3, 4], [0, 2], [0, 2], "segment: holds 0 … 2"),
    ([3, 4], [0, 2], [0], "1 entries for 2 tokens"),
    ([], [0], None, "from 0 to the 0 tokens"),
    ([0.5, 1.0], [0, 2], None, "whole numbers"),
)
"""ids, cu_seqlens and segment of a batch that must be refused, and what the message must say."""


def engine(part: Runtime) -> InferenceEngine:
    """Return the part's engine for the example model."""
    return part.build(build_model(SETTINGS, 1))


def check_settings_round_trip(part: Runtime) -> None:
    """The part is what its settings decode to."""
    assert decode(Runtime, encode(part)) == part


def check_hidden_states(part: Runtime) -> None:
    """Hidden states are float32 of shape (T, H), and a sequence gets the same ones alone as in a batch."""
    built = engine(part)
    hidden = built.run(IDS, CU_SEQLENS)
    assert hidden.shape == (30, 32)
    assert hidden.dtype == np.float32
    for start, end in itertools.pairwise(CU_SEQLENS):
        alone = built.run(IDS[start:end], np.array([0, end - start]))
        np.testing.assert_allclose(alone, hidden[start:end], atol=1e-5)


def check_pooled(part: Runtime) -> None:
    """Pooled vectors are the mean and the first of the hidden states of each sequence."""
    built = engine(part)
    hidden = built.run(IDS, CU_SEQLENS)
    means = np.stack([hidden[a:b].mean(0) for a, b in itertools.pairwise(CU_SEQLENS)])
    np.testing.assert_allclose(built.pooled(IDS, CU_SEQLENS), means, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(built.pooled(IDS, CU_SEQLENS, "cls"), hidden[CU_SEQLENS[:-1]])


def check_invalid_batches_are_refused(part: Runtime) -> None:
    """A batch outside the model's limits raises `InputError` that names the fault."""
    built = engine(part)
    for ids, cu_seqlens, segment, message in INVALID:
        values = np.array(ids) if ids else np.zeros(0, np.int64)
        bounds, segments = np.array(cu_seqlens), None if segment is None else np.array(segment)
        error = raised_message(InputError, functools.partial(built.run, values, bounds, segments))
        assert message in error, f"'{error}' does not say '{message}'"
