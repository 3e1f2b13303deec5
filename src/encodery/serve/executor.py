"""The executor: runs batches, each on all cores or on one core beside others, and isolates the units that fail.

A batch that fails is run again in halves until the failing unit is alone; the other units still get their outputs.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from encodery.base import machine
from encodery.serve.api_error import as_api_error
from encodery.serve.batching import WorkUnit
from encodery.serve.scheduler import Scheduler, UnitBatch
from encodery.serve.served_model import ServedModel
from encodery.serve.server_metrics import Record

Completed = Callable[[UnitBatch, Sequence[Any], float], None]
"""Called with a batch, the output of each of its units (an `ApiError` for one that failed), and the seconds it took."""


class Executor:
    """Runs the batches of a scheduler. `cores`: for a batch alone; `completed` gets the outputs; `changed` guards the
    number of running batches."""

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        scheduler: Scheduler,
        cores: int,
        completed: Completed,
        changed: threading.Condition,
        record: Record,
    ) -> None:
        self.models, self.scheduler, self.cores = models, scheduler, cores
        self._completed, self._changed, self._record = completed, changed, record
        self._single_threaded = {name: model.single_threaded() for name, model in models.items()}
        self._exclusive = {name: threading.Lock() for name, model in models.items() if model.exclusive}
        self._running, self._all_cores = 0, False

    def run(self) -> None:
        """Run batches until the scheduler is closed; the body of each runner's thread."""
        threads = 0
        while (batch := self.scheduler.take()) is not None:
            units = [unit for unit in batch.units if not unit.owner.settled]
            if not units:
                continue
            batch = UnitBatch(batch.line, units, batch.single_core)
            with self._exclusive.get(batch.line, contextlib.nullcontext()):
                all_cores = self._start(batch.single_core)
                needed = self.cores if all_cores else 1
                if needed != threads:
                    machine.set_threads(needed)
                    threads = needed
                try:
                    self._compute(batch, all_cores)
                finally:
                    with self._changed:
                        self._running -= 1
                        self._all_cores = False
                        self._changed.notify_all()

    def _start(self, single_core: bool | None) -> bool:
        """Whether the batch gets all cores, so that no other one runs meanwhile; returns when it can start."""
        with self._changed:
            self._changed.wait_for(lambda: not self._all_cores)
            self._running += 1
            if single_core is None:
                single_core = self.scheduler.more
            self._all_cores = self.scheduler.runners == 1 or (self._running == 1 and not single_core)
            return self._all_cores

    def _compute(self, batch: UnitBatch, all_cores: bool) -> None:
        started = time.perf_counter()
        for unit in batch.units:
            unit.owner.started_at = unit.owner.started_at or started
        outputs = self._outputs(batch.line, batch.units, all_cores)
        seconds = time.perf_counter() - started
        self._record("batch_tokens", batch.line, sum(unit.tokens for unit in batch.units))
        self._record("batch_seconds", batch.line, seconds)
        self._completed(batch, outputs, seconds)

    def _outputs(self, line: str, units: Sequence[WorkUnit], all_cores: bool) -> list[Any]:
        """The output of each unit, an `ApiError` for those that fail."""
        try:
            outputs = self._run_models(line, units, all_cores)
            if len(outputs) != len(units):
                raise RuntimeError(f"{line} gave {len(outputs)} outputs for {len(units)} units")
            return outputs
        except BaseException as error:  # A thread of the engine must not end because of a request.
            if len(units) == 1:
                return [as_api_error(error if isinstance(error, Exception) else RuntimeError(repr(error)))]
        self._record("halved", line, 1)
        half = len(units) // 2
        return self._outputs(line, units[:half], all_cores) + self._outputs(line, units[half:], all_cores)

    def _run_models(self, line: str, units: Sequence[WorkUnit], all_cores: bool) -> list[Any]:
        """Outputs of the models of a line; those of a batch group run together."""
        models, group = self.models if all_cores else self._single_threaded, self.models[line].batch_group
        if group is None:
            return list(models[line].run([unit.work for unit in units]))
        positions: dict[str, list[int]] = {}
        for position, unit in enumerate(units):
            positions.setdefault(unit.owner.request.endpoint, []).append(position)
        parts = [(models[name], [units[position].work for position in own]) for name, own in positions.items()]
        outputs: dict[int, Any] = {}
        for own, values in zip(positions.values(), group.run(parts), strict=True):
            outputs.update(zip(own, values, strict=True))
        return [outputs[position] for position in range(len(units))]
