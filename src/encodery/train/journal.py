"""The log of a run: a line for each step, read from the device late and many at a time, and one for each score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from encodery.base.report import RunLog, truncate_log
from encodery.objectives import figures
from encodery.train.distributed import Team
from encodery.train.step import Terms

LOG = "log.jsonl"
LATE = 16  # steps; on a device that works ahead of the host
Line = dict[str, Any]


class Journal:
    """Writes log.jsonl on rank 0 and hands every line to `show`. Every rank calls `step`, in step."""

    def __init__(self, folder: Path, team: Team, show: Callable[[Line], None], late: bool) -> None:
        self.team, self.show = team, show
        self.most = LATE if late else 1
        self.log = RunLog(folder / LOG) if team.leads else None
        self.waiting: list[tuple[Line, Terms]] = []

    def step(self, line: Line, terms: Terms) -> None:
        """A step's numbers; its loss, and what else is still on the device, is read when enough of them wait."""
        self.waiting.append((line, terms))
        if len(self.waiting) >= self.most:
            self.flush()

    def flush(self) -> None:
        """Read and write what waits."""
        for line, terms in self.waiting:
            found = figures(terms, self.team.sum if self.team.world > 1 else None)
            read = {name: value.item() if isinstance(value, Tensor) else value for name, value in line.items()}
            self.write({**read, **found})
        self.waiting.clear()

    def write(self, line: Line) -> None:
        """Write a line now."""
        if self.log is not None:
            self.log.write(**line)
            self.show(line)

    def close(self) -> None:
        """Close the file; what waits must have been flushed."""
        if self.log is not None:
            self.log.close()


def cut(folder: Path, step: int) -> None:
    """Drop the log's lines after `step`: a resumed run writes them again."""
    if (folder / LOG).is_file():
        truncate_log(folder / LOG, lambda line: line.get("step", 0) <= step)
