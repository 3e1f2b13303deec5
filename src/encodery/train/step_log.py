"""The log of a run: a line for each step, read from the device late and many at a time, and one for each score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from encodery.base.run_log import RunLog, truncate_log
from encodery.objectives import step_metrics
from encodery.train.distributed import DistributedContext
from encodery.train.step import StepTerms

LOG = "log.jsonl"
DEFERRED_LINES = 16  # steps; on a device that works ahead of the host
Line = dict[str, Any]


class StepLog:
    """Writes log.jsonl on rank 0 and hands every line to `show`. Every rank calls `step`, in step."""

    def __init__(
        self, folder: Path, distributed: DistributedContext, show: Callable[[Line], None], deferred: bool
    ) -> None:
        self.team, self.show = distributed, show
        self.capacity = DEFERRED_LINES if deferred else 1
        self.log = RunLog(folder / LOG) if distributed.is_main else None
        self.pending: list[tuple[Line, StepTerms]] = []

    def step(self, line: Line, terms: StepTerms) -> None:
        """A step's numbers; its loss, and what else is still on the device, is read when enough of them wait."""
        self.pending.append((line, terms))
        if len(self.pending) >= self.capacity:
            self.flush()

    def flush(self) -> None:
        """Read and write what waits."""
        for line, terms in self.pending:
            found = step_metrics(terms, self.team.all_reduce if self.team.world > 1 else None)
            read = {name: value.item() if isinstance(value, Tensor) else value for name, value in line.items()}
            self.write({**read, **found})
        self.pending.clear()

    def write(self, line: Line) -> None:
        """Write a line now."""
        if self.log is not None:
            self.log.write(**line)
            self.show(line)

    def close(self) -> None:
        """Close the file; what waits must have been flushed."""
        if self.log is not None:
            self.log.close()


def drop_later_lines(folder: Path, step: int) -> None:
    """Drop the log's lines after `step`: a resumed run writes them again."""
    if (folder / LOG).is_file():
        truncate_log(folder / LOG, lambda line: line.get("step", 0) <= step)
