"""Compare systems on suites: metrics with intervals, the difference to the first system, and the cost.

Every system is evaluated on the same items. Speed is that of encoding, including tokenisation; memory is the peak above
the memory in use before the system was loaded. Shapes: N items.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from encodery.base import machine
from encodery.base.errors import InputError
from encodery.evaluate.counters import Counters
from encodery.evaluate.memory import PeakMemory
from encodery.evaluate.metric_value import MetricValue
from encodery.evaluate.significance import Difference, Interval
from encodery.evaluate.suites import Suite
from encodery.evaluate.systems import OpenSystem, System, UnsupportedEvaluation


@dataclass(frozen=True, kw_only=True)
class SuiteTask:
    """A suite and its data; `name` is its name in tables."""

    suite: Suite
    data: Path
    name: str = ""

    @property
    def label(self) -> str:
        """Its name, or else the names of the suite and the data."""
        from encodery.base.parts import name_of

        return self.name or f"{name_of(self.suite)} {self.data.name.split('.')[0]}"


@dataclass(frozen=True, eq=False)
class Result:
    """The result of one system on one task.

    Attributes:
        main_metric: the metric that decides, a key of `metrics`.
        counters: texts, tokens and seconds of encoding.
        seconds: the time of the whole evaluation: encoding, and what the suite computes from the embeddings.
        memory: the peak memory in bytes.
        notes: what a reader of the metrics needs to know.
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
        """The value of the main metric."""
        return self.metrics[self.main_metric].value


@dataclass(frozen=True, eq=False)
class Row:
    """A row of the table: a result, or the reason why there is none.

    `intervals` and `differences` (to the first system) are by metric; None where they are not defined.
    """

    task: str
    system: str
    main_metric: str
    result: Result | None = None
    intervals: Mapping[str, Interval | None] = field(default_factory=dict)
    differences: Mapping[str, Difference | None] = field(default_factory=dict)
    reason: str = ""

    @property
    def interval(self) -> Interval | None:
        """The interval of the main metric."""
        return self.intervals.get(self.main_metric)

    @property
    def difference(self) -> Difference | None:
        """The difference of the main metric to that of the first system."""
        return self.differences.get(self.main_metric)

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain values."""
        line: dict[str, Any] = {"task": self.task, "system": self.system, "metric": self.main_metric}
        if self.result is None:
            return {**line, "reason": self.reason}
        counters = self.result.counters
        line |= {**self.compared_value(self.main_metric), "items": self.result.items}
        line |= {f"{key}_per_s": value for key, value in speeds(counters).items()}
        line |= {"texts": counters.texts, "tokens": counters.tokens, "padding": counters.padding}
        line |= {"dropped": counters.dropped, "encode_seconds": counters.seconds, "seconds": self.result.seconds}
        line |= {"memory": self.result.memory}
        line["metrics"] = {name: metric.value for name, metric in self.result.metrics.items()}
        line["compared"] = {name: self.compared_value(name) for name in self.result.metrics}
        line["notes"] = list(self.result.notes)
        return line

    def compared_value(self, name: str) -> dict[str, float | None]:
        """Return a metric with its interval and its difference to the first system. The row must have a result.

        The keys are value, low, high and, if there is a difference, difference, difference_low, difference_high, p.
        """
        assert self.result is not None
        low, high = self.intervals.get(name) or (None, None)
        line = {"value": self.result.metrics[name].value, "low": low, "high": high}
        difference = self.differences.get(name)
        if difference is None:
            return line
        low, high = difference.interval or (None, None)
        compared = {"difference": difference.value, "difference_low": low, "difference_high": high, "p": difference.p}
        return {**line, **compared}


@dataclass(frozen=True, eq=False)
class Comparison:
    """The rows, task by task, and the machine. In each task the first system is the one compared with."""

    rows: list[Row]
    machine: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain values."""
        return {"machine": self.machine, "rows": [row.to_dict() for row in self.rows]}


def measure(suite: Suite, items: Any, system: OpenSystem, label: str, peak: PeakMemory | None = None) -> Result:
    """Evaluate an open system on the items of a suite. Raises `UnsupportedEvaluation`."""
    before, num_notes, start = system.counters.copy(), len(system.notes), time.perf_counter()
    if peak is not None:
        peak.mark()
    metrics = suite.measure(items, system)
    seconds = time.perf_counter() - start
    memory = None if peak is None else peak.since_start()
    main, counters = suite.main_metric or next(iter(metrics)), system.counters.since(before)
    notes = tuple(system.notes[num_notes:])
    return Result(label, system.name, main, len(items), metrics, counters, seconds, memory, notes)


def compare(
    systems: Sequence[System], tasks: Sequence[SuiteTask], seed: int = 0, log: Callable[[str], None] | None = None
) -> Comparison:
    """Evaluate every system on every task; each system is loaded once, one at a time.

    Args:
        seed: the seed of intervals and tests.
        log: called with a line of text before each evaluation.

    A system that does not support a task gets a row with the reason. Raises `InputError` if no system supports any
    task, and for two systems or tasks with the same name.
    """
    _check_labels("systems", [system.label for system in systems])
    _check_labels("tasks", [task.label for task in tasks])
    data = [task.suite.read(task.data) for task in tasks]
    by_name: dict[tuple[str, str], Row] = {}
    for system in systems:
        peak = PeakMemory()
        opened = system.open()
        for task, items in zip(tasks, data, strict=True):
            if log is not None:
                log(f"{system.label}: {task.label}, {len(items):,} items")
            try:
                result = measure(task.suite, items, opened, task.label, peak)
                intervals = {name: metric.interval(seed) for name, metric in result.metrics.items()}
                row = Row(task.label, system.label, result.main_metric, result, intervals)
            except UnsupportedEvaluation as error:
                row = Row(task.label, system.label, task.suite.main_metric, reason=str(error))
            by_name[task.label, system.label] = row
        opened.close()
        del opened  # Its memory is free before the next one is loaded.
    rows = [
        _compared_to(by_name[task.label, systems[0].label], by_name[task.label, s.label], seed)
        for task in tasks
        for s in systems
    ]
    if all(row.result is None for row in rows):
        raise InputError(rows[0].reason)
    return Comparison(rows, dict(machine.describe()))


def speeds(counters: Counters) -> dict[str, float]:
    """Return texts and tokens per second of encoding; an empty dict if nothing was encoded."""
    if not counters.texts or not counters.seconds:
        return {}
    speed = {"texts": counters.texts / counters.seconds}
    return speed if counters.tokens is None else {**speed, "tokens": counters.tokens / counters.seconds}


def _compared_to(first: Row, row: Row, seed: int) -> Row:
    if row is first or row.result is None or first.result is None:
        return row
    reference = first.result.metrics
    differences = {
        name: metric.difference_to(reference[name], seed)
        for name, metric in row.result.metrics.items()
        if name in reference
    }
    return replace(row, differences=differences)


def _check_labels(noun: str, labels: Sequence[str]) -> None:
    if not labels:
        raise InputError(f"No {noun} were given.")
    twice = [label for label in dict.fromkeys(labels) if labels.count(label) > 1]
    if twice:
        raise InputError(f"Two {noun} have the name '{twice[0]}'. Give one of them another name.")
