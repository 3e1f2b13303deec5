"""Where a run stands: steps, tokens, seconds, and the progress that every schedule follows.

A schedule is read at the middle of the coming step, so that the first step of a warm-up is no idle one and neither is
the last of a descent. Progress by tokens or steps is a function of what was done, the same in every run; by the clock
it is what the clock says, with the time spent before a resume counted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from encodery.train.budget import Budget
from encodery.train.hooks import TrainState

SMOOTH = 0.2


@dataclass
class Clock:
    """`before` and `aside`: seconds of earlier sittings, and of evaluation and saving, which `elapsed` includes."""

    budget: Budget
    step: int = 0
    tokens: int = 0
    earlier_seconds: float = 0.0
    overhead_seconds: float = 0.0
    step_seconds: float = 0.0
    _since: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        """Seconds of this run by this process's clock, earlier sittings included."""
        return self.earlier_seconds + time.monotonic() - self._since

    def train_state(self, elapsed: float) -> TrainState:
        """What is done so far, at `elapsed`, on which all ranks agree."""
        progress = self.budget.progress(elapsed, self.tokens, self.step)
        return TrainState(self.step, self.tokens, elapsed, progress)

    def next_step_progress(self, elapsed: float, batch_tokens: int) -> float:
        """Progress at the middle of the coming step, which will take `planned` tokens."""
        half = {"seconds": self.step_seconds, "tokens": batch_tokens, "steps": 1}[self.budget.kind] / 2
        return min((self.budget.used(elapsed, self.tokens, self.step) + half) / self.budget.amount, 1.0)

    def done(self, elapsed: float) -> bool:
        """Whether the budget is spent; by the clock, whether another step would overrun it by more than half."""
        late = elapsed + self.step_seconds / 2 if self.step else elapsed
        return self.budget.done(late, self.tokens, self.step)

    def record_step(self, seconds: float, tokens: int) -> None:
        """Count a step."""
        self.step += 1
        self.tokens += tokens
        # The first step also warms up caches: it says little of the others.
        self.step_seconds += (seconds - self.step_seconds) * (SMOOTH if self.step > 2 else 1.0)

    def state(self) -> dict[str, Any]:
        """For the checkpoint; floats at full precision."""
        return {
            "step": self.step,
            "tokens": self.tokens,
            "elapsed": self.elapsed,
            "aside": self.overhead_seconds,
            "step_seconds": self.step_seconds,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.step, self.tokens = int(state["step"]), int(state["tokens"])
        self.earlier_seconds, self.overhead_seconds = float(state["elapsed"]), float(state["aside"])
        self.step_seconds = float(state["step_seconds"])
        self._since = time.monotonic()

    def start(self) -> None:
        """Begin to count now: what came before (preflight, loading) is not part of the run."""
        self._since = time.monotonic()
