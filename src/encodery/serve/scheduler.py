"""The scheduler: which units form the next batch, and whether the batch runs on all cores or on one of them.

One batch is formed ahead while another one runs: a batch formed later could contain requests that arrive meanwhile.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from encodery.serve.batching import FairQueue, WorkUnit
from encodery.serve.costs import BatchCosts
from encodery.serve.served_model import ServedModel
from encodery.serve.server_metrics import Record

BATCH_TOKENS = 2048  # If neither set nor measured.
MIN_BATCH_TOKENS = 512  # Matrix products of smaller batches are slower per token.


@dataclass(frozen=True, eq=False)
class UnitBatch:
    """Units of one `line`. `single_core`: to be run on one core beside other batches; None if that is decided when the
    batch starts, since no costs were measured."""

    line: str
    units: list[WorkUnit]
    single_core: bool | None


class Scheduler:
    """Forms batches from waiting units. `costs` by line; `batch_tokens`: of a batch, None for the measured size;
    `changed` guards the queue and is notified when it changes."""

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        costs: Mapping[str, BatchCosts],
        batch_tokens: int | None,
        runners: int,
        changed: threading.Condition,
        record: Record,
    ) -> None:
        self.models, self.costs, self.batch_tokens, self.runners = models, costs, batch_tokens, runners
        self._changed, self._record = changed, record
        self._waiting = FairQueue()
        self._ready: queue.Queue[UnitBatch | None] = queue.Queue(1)
        self._slot = threading.Semaphore(1)
        self._closed = False

    @property
    def waiting_tokens(self) -> int:
        """Tokens that no batch has been formed of."""
        return self._waiting.tokens

    @property
    def batch_ready(self) -> bool:
        """Whether a batch is formed and waits for a runner."""
        return self._ready.full()

    @property
    def more(self) -> bool:
        """Whether anything waits: units, or a formed batch."""
        return bool(self._waiting.tokens) or not self._ready.empty()

    def add(self, line: str, units: Sequence[WorkUnit], urgent: bool, grace: int) -> None:
        """Units of one request; see `FairQueue.add`. The caller holds `changed`."""
        self._waiting.add(line, units, urgent, grace)
        self._changed.notify_all()

    def record_rate(self, line: str, tokens: int, seconds: float) -> None:
        """How long a batch took. The caller holds `changed`."""
        self._waiting.record_rate(line, tokens, seconds)

    def close(self) -> None:
        """Drop what waits, and end `run`. The caller holds `changed`."""
        self._closed = True
        self._waiting.clear()
        self._changed.notify_all()
        self._slot.release()

    def take(self) -> UnitBatch | None:
        """The next batch, when there is one; None once the scheduler is closed."""
        batch = self._ready.get()
        if batch is not None:
            self._slot.release()
        return batch

    def run(self) -> None:
        """Form batches until closed; the body of a thread."""
        while True:
            self._slot.acquire()
            with self._changed:
                self._changed.wait_for(lambda: self._waiting.tokens > 0 or self._closed)
                line = self._waiting.next_line()
                if self._closed or line is None:
                    break
                budget, single_core = self._next_size(line)
                units = self._waiting.take(line, budget, self.models[line].max_units)
                self._record("waiting", "", self._waiting.tokens)
            if units:
                self._ready.put(UnitBatch(line, units, single_core))
            else:
                self._slot.release()
        for _ in range(self.runners):
            self._ready.put(None)

    def _next_size(self, line: str) -> tuple[int, bool | None]:
        """The tokens of the next batch, and `UnitBatch.single_core`."""
        waiting, costs = self._waiting.tokens, self.costs.get(line)
        limit = self.batch_tokens or (costs.batch_tokens if costs else BATCH_TOKENS)
        if costs is not None:
            return costs.next_batch(waiting, self._waiting.divisible(line), limit)
        return min(limit, max(MIN_BATCH_TOKENS, -(-waiting // self.runners))), None
