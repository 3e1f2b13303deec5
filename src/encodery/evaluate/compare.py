"""Systems by suites in one table: quality with intervals, the difference to the first system, and what it cost.

Every system answers the same items. Speed is that of encoding alone, tokenisation included; memory is the peak above
what was held before the system was loaded. Shapes: N items.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encodery.base import machine
from encodery.base.errors import InputError
from encodery.evaluate.memory import Peak
from encodery.evaluate.significance import Difference, Interval
from encodery.evaluate.suites import Figure, Suite
from encodery.evaluate.systems import Counters, Incapable, Opened, System


@dataclass(frozen=True, kw_only=True)
class Task:
    """A suite and its data; `name` in tables."""

    suite: Suite
    data: Path
    name: str = ""

    @property
    def label(self) -> str:
        """The name given, else that of the suite and the data."""
        from encodery.base.parts import name_of

        return self.name or f"{name_of(self.suite)} {self.data.name.split('.')[0]}"


@dataclass(frozen=True, eq=False)
class Result:
    """One system on one task. `figures` by name, `main` the one that counts; `counters` and `memory` what it cost.

    `seconds` are of the whole: encoding, and what the suite does with the vectors.
    """

    task: str
    system: str
    main: str
    items: int
    figures: dict[str, Figure]
    counters: Counters
    seconds: float
    memory: int | None

    @property
    def value(self) -> float:
        """The main figure."""
        return self.figures[self.main].value


@dataclass(frozen=True, eq=False)
class Row:
    """A line of the table: a result with its interval and its difference to the first system; or why there is none."""

    task: str
    system: str
    main: str
    result: Result | None = None
    interval: Interval | None = None
    apart: Difference | None = None
    why: str = ""

    def table(self) -> dict[str, Any]:
        """The line as plain values."""
        line: dict[str, Any] = {"task": self.task, "system": self.system, "figure": self.main}
        if self.result is None:
            return {**line, "why": self.why}
        counters = self.result.counters
        low, high = self.interval or (None, None)
        line |= {"value": self.result.value, "low": low, "high": high, "items": self.result.items}
        if self.apart is not None:
            low, high = self.apart.interval or (None, None)
            line |= {"difference": self.apart.value, "difference_low": low, "difference_high": high, "p": self.apart.p}
        line |= {f"{key}_per_s": value for key, value in speeds(counters).items()}
        line |= {"texts": counters.texts, "tokens": counters.tokens, "padding": counters.padding}
        line |= {"dropped": counters.dropped, "encode_seconds": counters.seconds, "seconds": self.result.seconds}
        line |= {"memory": self.result.memory}
        line["figures"] = {name: figure.value for name, figure in self.result.figures.items()}
        return line


@dataclass(frozen=True, eq=False)
class Comparison:
    """The lines, task by task, the first system of each the one compared with; and the machine."""

    rows: list[Row]
    machine: dict[str, Any]

    def table(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {"machine": self.machine, "rows": [row.table() for row in self.rows]}


def measure(suite: Suite, items: Any, system: Opened, label: str, peak: Peak | None = None) -> Result:
    """One opened system on the items of one suite. Raises `Incapable`."""
    before, begun = system.counters.copy(), time.perf_counter()
    if peak is not None:
        peak.mark()
    figures = suite.measure(items, system)
    seconds = time.perf_counter() - begun
    memory = None if peak is None else peak.since_start()
    return Result(label, system.name, suite.main, len(items), figures, system.counters.since(before), seconds, memory)


def compare(
    systems: Sequence[System], tasks: Sequence[Task], seed: int = 0, say: Callable[[str], None] | None = None
) -> Comparison:
    """Every system on every task; each system is loaded once, one at a time.

    A system that cannot do a task has a line that says so. Raises `InputError` where none can do any, and for two
    systems or tasks of one name.
    """
    _named_apart("systems", [system.label for system in systems])
    _named_apart("tasks", [task.label for task in tasks])
    read = [task.suite.read(task.data) for task in tasks]
    found: dict[tuple[str, str], Row] = {}
    for system in systems:
        peak = Peak()
        opened = system.open()
        for task, items in zip(tasks, read, strict=True):
            if say is not None:
                say(f"{system.label}: {task.label}, {len(items):,} items")
            try:
                result = measure(task.suite, items, opened, task.label, peak)
                row = Row(task.label, system.label, task.suite.main, result, result.figures[result.main].interval(seed))
            except Incapable as error:
                row = Row(task.label, system.label, task.suite.main, why=str(error))
            found[task.label, system.label] = row
        opened.close()
        del opened  # before the next is loaded, so that its memory is its own
    rows = [
        _against(found[task.label, systems[0].label], found[task.label, s.label], seed)
        for task in tasks
        for s in systems
    ]
    if all(row.result is None for row in rows):
        raise InputError(rows[0].why)
    return Comparison(rows, dict(machine.describe()))


def speeds(counters: Counters) -> dict[str, float]:
    """Texts and tokens a second of encoding, where there was any."""
    if not counters.texts or not counters.seconds:
        return {}
    found = {"texts": counters.texts / counters.seconds}
    return found if counters.tokens is None else {**found, "tokens": counters.tokens / counters.seconds}


def _against(first: Row, row: Row, seed: int) -> Row:
    if row is first or row.result is None or first.result is None:
        return row
    apart = row.result.figures[row.main].minus(first.result.figures[first.main], seed)
    return Row(row.task, row.system, row.main, row.result, row.interval, apart)


def _named_apart(what: str, labels: Sequence[str]) -> None:
    if not labels:
        raise InputError(f"No {what} were given.")
    twice = [label for label in dict.fromkeys(labels) if labels.count(label) > 1]
    if twice:
        raise InputError(f"Two {what} are called '{twice[0]}': give one another name.")
