"""The clock of a run: steps, tokens, seconds, and the progress that every schedule follows.

A schedule is read at the middle of the coming step, so that neither the first step of a warm-up nor the last of a decay
has a learning rate of zero. Progress by tokens or steps depends on what was done only, so it is the same in every run;
progress by time includes the time that was spent before a resume."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from encodery.train.budget import Budget
from encodery.train.hooks import TrainState

SMOOTH = 0.2  # weight of the last step in the running mean of seconds per step


@dataclass
class Clock:
    """`earlier_seconds`: those before the last resume; `overhead_seconds`: those of evaluation and saving, which
    `elapsed` includes."""

    budget: Budget
    step: int = 0
    tokens: int = 0
    earlier_seconds: float = 0.0
    overhead_seconds: float = 0.0
    step_seconds: float = 0.0
    _started: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        """Seconds of this run by the clock of this process, those before a resume included."""
        return self.earlier_seconds + time.monotonic() - self._started

    def train_state(self, elapsed: float) -> TrainState:
        """What is done after `elapsed` seconds, a value that is equal on all ranks."""
        progress = self.budget.progress(elapsed, self.tokens, self.step)
        return TrainState(self.step, self.tokens, elapsed, progress)

    def next_step_progress(self, elapsed: float, batch_tokens: int) -> float:
        """The progress at the middle of the coming step of `batch_tokens` tokens."""
        half = {"seconds": self.step_seconds, "tokens": batch_tokens, "steps": 1}[self.budget.kind] / 2
        return min((self.budget.used(elapsed, self.tokens, self.step) + half) / self.budget.amount, 1.0)

    def done(self, elapsed: float) -> bool:
        """Whether the budget is spent; for a time, whether another step would exceed it by more than half a step."""
        end = elapsed + self.step_seconds / 2 if self.step else elapsed
        return self.budget.done(end, self.tokens, self.step)

    def record_step(self, seconds: float, tokens: int) -> None:
        """Count a step."""
        self.step += 1
        self.tokens += tokens
        # The first step also warms up caches, so it says little about the others.
        self.step_seconds += (seconds - self.step_seconds) * (SMOOTH if self.step > 2 else 1.0)

    def state(self) -> dict[str, Any]:
        """The state for a checkpoint; floats at full precision."""
        return {
            "step": self.step,
            "tokens": self.tokens,
            "elapsed": self.elapsed,
            "overhead_seconds": self.overhead_seconds,
            "step_seconds": self.step_seconds,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.step, self.tokens = int(state["step"]), int(state["tokens"])
        self.earlier_seconds, self.overhead_seconds = float(state["elapsed"]), float(state["overhead_seconds"])
        self.step_seconds = float(state["step_seconds"])
        self._started = time.monotonic()

    def start(self) -> None:
        """Start counting now: preflight and loading are not part of the run."""
        self._started = time.monotonic()
