"""An engine that computes nothing: the state of a token is its id and its position. For tests of the code around it.

Shapes: T tokens, H width.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from encodery.base.errors import SettingsError
from encodery.model.network import Model
from encodery.runtimes.batch import CheckedBatch, Limits
from encodery.runtimes.engine import InferenceEngine
from encodery.runtimes.kind import Runtime


@dataclass(frozen=True, kw_only=True)
class EchoRuntime(Runtime):
    """Use it to test a server or a client without a real model. `seconds_per_token`: the time that a token takes.

    encodery serve run --runtime echo
    """

    seconds_per_token: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.seconds_per_token < float("inf"):
            raise SettingsError(f"seconds_per_token = {self.seconds_per_token}: must be finite and not negative.")

    def build(self, model: Model) -> InferenceEngine:
        return _EchoEngine(Limits.of(model.settings), self.seconds_per_token)


class _EchoEngine(InferenceEngine):
    def __init__(self, limits: Limits, seconds_per_token: float) -> None:
        super().__init__(limits)
        self.seconds_per_token = seconds_per_token

    def hidden_states(self, batch: CheckedBatch) -> np.ndarray:
        """Return (T, H): ids in even columns, positions in odd ones."""
        time.sleep(self.seconds_per_token * len(batch.ids))
        states = np.empty((len(batch.ids), self.limits.width), np.float32)
        states[:, 0::2] = batch.ids[:, None]
        starts = np.repeat(batch.cu_seqlens[:-1], np.diff(batch.cu_seqlens))
        states[:, 1::2] = (np.arange(len(batch.ids)) - starts)[:, None]
        return states
