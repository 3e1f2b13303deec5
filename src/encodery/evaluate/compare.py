"""Systems by suites in one table: quality with intervals, the difference to the first system, and what it cost.

Every system answers the same items. Speed is that of encoding alone, tokenisation included; memory is the peak above
what was held before the system was loaded. Shapes: N items.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from encodery.base import machine
from encodery.base.errors import InputError
from encodery.evaluate.memory import PeakMemory
from encodery.evaluate.significance import Difference, Interval
from encodery.evaluate.suites import MetricValue, Suite
from encodery.evaluate.systems import Counters, OpenSystem, System, UnsupportedEvaluation


@dataclass(frozen=True, kw_only=True)
class SuiteTask:
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

    `seconds` are of the whole: encoding, and what the suite does with the vectors. `notes`: what a reader of the
    figures has to know.
    """

    task: str
    system: str
    main_metric: str
    items: int
    metrics: dict[str, MetricValue]
    counters: Counters
    seconds: float
    memory: int | None
    notes: tuple[str, ...] = ()

    @property
    def value(self) -> float:
        """The main figure."""
        return self.metrics[self.main_metric].value


@dataclass(frozen=True, eq=False)
class Row:
    """A line of the table: a result; by figure the interval and the difference to the first system, where there is
    one; or why there is no result. `main`: the figure that counts."""

    task: str
    system: str
    main_metric: str
    result: Result | None = None
    intervals: Mapping[str, Interval | None] = field(default_factory=dict)
    differences: Mapping[str, Difference | None] = field(default_factory=dict)
    reason: str = ""

    @property
    def interval(self) -> Interval | None:
        """That of the main figure."""
        return self.intervals.get(self.main_metric)

    @property
    def difference(self) -> Difference | None:
        """The main figure's difference to the first system's."""
        return self.differences.get(self.main_metric)

    def to_dict(self) -> dict[str, Any]:
        """The line as plain values."""
        line: dict[str, Any] = {"task": self.task, "system": self.system, "figure": self.main_metric}
        if self.result is None:
            return {**line, "why": self.reason}
        counters = self.result.counters
        line |= {**self.compared_value(self.main_metric), "items": self.result.items}
        line |= {f"{key}_per_s": value for key, value in speeds(counters).items()}
        line |= {"texts": counters.texts, "tokens": counters.tokens, "padding": counters.padding}
        line |= {"dropped": counters.dropped, "encode_seconds": counters.seconds, "seconds": self.result.seconds}
        line |= {"memory": self.result.memory}
        line["figures"] = {name: figure.value for name, figure in self.result.metrics.items()}
        line["judged"] = {name: self.compared_value(name) for name in self.result.metrics}
        line["notes"] = list(self.result.notes)
        return line

    def compared_value(self, name: str) -> dict[str, float | None]:
        """A figure with its interval and, beside the first system, its difference: value, low, high, difference,
        difference_low, difference_high, p; the latter are absent where nothing is compared. Needs a result."""
        assert self.result is not None
        low, high = self.intervals.get(name) or (None, None)
        found = {"value": self.result.metrics[name].value, "low": low, "high": high}
        apart = self.differences.get(name)
        if apart is None:
            return found
        low, high = apart.interval or (None, None)
        return {**found, "difference": apart.value, "difference_low": low, "difference_high": high, "p": apart.p}


@dataclass(frozen=True, eq=False)
class Comparison:
    """The lines, task by task, the first system of each the one compared with; and the machine."""

    rows: list[Row]
    machine: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {"machine": self.machine, "rows": [row.to_dict() for row in self.rows]}


def measure(suite: Suite, items: Any, system: OpenSystem, label: str, peak: PeakMemory | None = None) -> Result:
    """One opened system on the items of one suite. Raises `Incapable`."""
    before, said, begun = system.counters.copy(), len(system.notes), time.perf_counter()
    if peak is not None:
        peak.mark()
    figures = suite.measure(items, system)
    seconds = time.perf_counter() - begun
    memory = None if peak is None else peak.since_start()
    main, counters = suite.main_metric or next(iter(figures)), system.counters.since(before)
    notes = tuple(system.notes[said:])
    return Result(label, system.name, main, len(items), figures, counters, seconds, memory, notes)


def compare(
    systems: Sequence[System], tasks: Sequence[SuiteTask], seed: int = 0, say: Callable[[str], None] | None = None
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
        peak = PeakMemory()
        opened = system.open()
        for task, items in zip(tasks, read, strict=True):
            if say is not None:
                say(f"{system.label}: {task.label}, {len(items):,} items")
            try:
                result = measure(task.suite, items, opened, task.label, peak)
                intervals = {name: figure.interval(seed) for name, figure in result.metrics.items()}
                row = Row(task.label, system.label, result.main_metric, result, intervals)
            except UnsupportedEvaluation as error:
                row = Row(task.label, system.label, task.suite.main_metric, reason=str(error))
            found[task.label, system.label] = row
        opened.close()
        del opened  # before the next is loaded, so that its memory is its own
    rows = [
        _against(found[task.label, systems[0].label], found[task.label, s.label], seed)
        for task in tasks
        for s in systems
    ]
    if all(row.result is None for row in rows):
        raise InputError(rows[0].reason)
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
    theirs = first.result.metrics
    apart = {
        name: figure.difference_to(theirs[name], seed) for name, figure in row.result.metrics.items() if name in theirs
    }
    return replace(row, differences=apart)


def _named_apart(what: str, labels: Sequence[str]) -> None:
    if not labels:
        raise InputError(f"No {what} were given.")
    twice = [label for label in dict.fromkeys(labels) if labels.count(label) > 1]
    if twice:
        raise InputError(f"Two {what} are called '{twice[0]}': give one another name.")
