"""The log of a run: one line for each step and one for each score. Values on the device are read late, many at a
time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from encodery.base.run_log import RunLog, truncate_log
from encodery.objectives import step_metrics
from encodery.train.distributed import DistributedContext
from encodery.train.execution import StepTerms

LOG = "log.jsonl"
DEFERRED_LINES = 16  # steps between two reads, on a device that runs behind the host
Line = dict[str, Any]


class StepLog:
    """Writes log.jsonl on rank 0 and passes every line to `show`. All ranks call `step` for the same steps."""

    def __init__(
        self, folder: Path, distributed: DistributedContext, show: Callable[[Line], None], deferred: bool
    ) -> None:
        self.distributed, self.show = distributed, show
        self.capacity = DEFERRED_LINES if deferred else 1
        self.log = RunLog(folder / LOG) if distributed.is_main else None
        self.pending: list[tuple[Line, StepTerms]] = []

    def step(self, line: Line, terms: StepTerms) -> None:
        """Log a step; its loss and other values on the device are read once enough lines are pending."""
        self.pending.append((line, terms))
        if len(self.pending) >= self.capacity:
            self.flush()

    def flush(self) -> None:
        """Read and write the pending lines."""
        for line, terms in self.pending:
            losses = step_metrics(terms, self.distributed.all_reduce if self.distributed.world > 1 else None)
            values = {name: value.item() if isinstance(value, Tensor) else value for name, value in line.items()}
            self.write({**values, **losses})
        self.pending.clear()

    def write(self, line: Line) -> None:
        """Write a line now."""
        if self.log is not None:
            self.log.write(**line)
            self.show(line)

    def close(self) -> None:
        """Close the file; pending lines must have been flushed."""
        if self.log is not None:
            self.log.close()


def drop_later_lines(folder: Path, step: int) -> None:
    """Remove the lines after `step` from the log: a resumed run writes them again."""
    if (folder / LOG).is_file():
        truncate_log(folder / LOG, lambda line: line.get("step", 0) <= step)
