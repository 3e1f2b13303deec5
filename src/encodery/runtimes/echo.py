"""An engine that computes nothing: each token's id and position come back. For tests of what stands around an engine.

Shapes: T tokens, H width.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from encodery.base.errors import SettingsError
from encodery.model.network import Model
from encodery.runtimes import InferenceEngine, Runtime
from encodery.runtimes._checked import CheckedBatch, Limits


@dataclass(frozen=True, kw_only=True)
class EchoRuntime(Runtime):
    """`seconds`: how long a token takes."""

    seconds_per_token: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.seconds_per_token < float("inf"):
            raise SettingsError(f"seconds = {self.seconds_per_token}: must be finite and not negative.")

    def build(self, model: Model) -> InferenceEngine:
        return _EchoEngine(Limits.of(model.settings), self.seconds_per_token)


class _EchoEngine(InferenceEngine):
    def __init__(self, limits: Limits, seconds: float) -> None:
        super().__init__(limits)
        self.seconds = seconds

    def hidden_states(self, batch: CheckedBatch) -> np.ndarray:
        """(T, H): ids in even columns, positions in odd ones."""
        time.sleep(self.seconds * len(batch.ids))
        found = np.empty((len(batch.ids), self.limits.width), np.float32)
        found[:, 0::2] = batch.ids[:, None]
        starts = np.repeat(batch.cu_seqlens[:-1], np.diff(batch.cu_seqlens))
        found[:, 1::2] = (np.arange(len(batch.ids)) - starts)[:, None]
        return found
