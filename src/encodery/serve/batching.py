"""Start-time fair queueing by tokens, between lines and between the requests of a line, with due times.

Goyal, Vin & Cheng 1996. Each request is a flow with a tag, the virtual time at which its next unit starts; the lowest
tag is served. So a request of one short text is served before the rest of one with ten thousand. If short requests
arrive without end, tags alone would starve the large one, whose tag is always higher than that of a new request:
therefore its units have due times too, the first after a grace, and then one after another, SLOWDOWN times as slowly as
they would be computed alone; what is overdue goes first. A batch holds units of one line only, which is an endpoint or
several endpoints that are computed together.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

UNLIMITED_GRACE = 1 << 60  # Tokens of grace of a request that is never due.
SLOWDOWN = 8  # A request beside others is done within this multiple of the time that it takes alone.
RATE_UPDATE = 0.2  # Weight of the last batch in the seconds per token of a line.
INITIAL_RATE = 1e-4  # Seconds per token.


@dataclass(frozen=True, slots=True, eq=False)
class WorkUnit:
    """`number` of the unit in its request `owner`, which has `settled: bool`; `work`: what the served model runs."""

    owner: Any
    number: int
    tokens: int
    work: Any


@dataclass(slots=True)
class _Flow:
    """The remaining units of a request `owner`, with the `tag` and `due` time of the next one."""

    owner: Any
    tag: int
    due: int
    units: deque[WorkUnit]


@dataclass(slots=True)
class _Line:
    """`tag` of the line among lines, `now` its virtual time, `done` its tokens so far, `rate` in seconds per token.
    `flows` by order of arrival; `tags` and `dues` are heaps of (time, order), with entries of past times too."""

    tag: float = 0.0
    now: int = 0
    done: int = 0
    rate: float = INITIAL_RATE
    flows: dict[int, _Flow] = field(default_factory=dict)
    tags: list[tuple[int, int]] = field(default_factory=list)
    dues: list[tuple[int, int]] = field(default_factory=list)

    def put(self, order: int, flow: _Flow) -> None:
        """Enter a flow with the times of its next unit."""
        self.flows[order] = flow
        heapq.heappush(self.tags, (flow.tag, order))
        heapq.heappush(self.dues, (flow.due, order))

    def next(self) -> int | None:
        """The order of the flow to be served."""
        while self.tags and ((flow := self.flows.get(self.tags[0][1])) is None or flow.tag != self.tags[0][0]):
            heapq.heappop(self.tags)
        while self.dues and ((flow := self.flows.get(self.dues[0][1])) is None or flow.due != self.dues[0][0]):
            heapq.heappop(self.dues)
        if not self.tags:
            return None
        return self.dues[0][1] if self.dues[0][0] <= self.done else self.tags[0][1]


class FairQueue:
    """Waiting units by line. Not thread-safe: the caller holds a lock."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}
        self._now = 0.0
        self._order = 0
        self.tokens = 0

    def add(self, name: str, units: Sequence[WorkUnit], first: bool = False, grace: int = UNLIMITED_GRACE) -> None:
        """Add the units of a request to a line. `first`: before all others of the line; `grace`: tokens of the line
        that may be computed before its first unit is due."""
        if not units:
            return
        line = self._lines.setdefault(name, _Line())
        if not line.flows:
            line.tag = max(line.tag, self._now)
        self._order += 1
        tag, due = (-1, -1) if first else (line.now, line.done + grace)
        line.put(self._order, _Flow(units[0].owner, tag, due, deque(units)))
        self.tokens += sum(unit.tokens for unit in units)

    def next_line(self) -> str | None:
        """The line to be served, None if nothing waits."""
        waiting = [(line.tag, name) for name, line in self._lines.items() if line.flows]
        return min(waiting)[1] if waiting else None

    def divisible(self, name: str) -> bool:
        """Whether more than one unit waits in a line."""
        flows = self._lines[name].flows
        return len(flows) > 1 or any(len(flow.units) > 1 for flow in flows.values())

    def take(self, name: str, budget: int, max_units: int = 1 << 20) -> list[WorkUnit]:
        """The next batch of a line: at most `budget` tokens, but at least one unit, and at most `max_units`. Units of
        settled requests are dropped; if only those waited, the batch is empty."""
        line = self._lines[name]
        self._now = max(self._now, line.tag)
        taken = self._fill(line, budget, max_units)
        line.tag += line.rate * sum(unit.tokens for unit in taken)
        return taken

    def _fill(self, line: _Line, budget: int, max_units: int) -> list[WorkUnit]:
        taken: list[WorkUnit] = []
        filled = 0
        while len(taken) < max_units and (order := line.next()) is not None:
            flow = line.flows[order]
            if flow.owner.settled:
                self.tokens -= sum(unit.tokens for unit in flow.units)
                del line.flows[order]
                continue
            unit = flow.units[0]
            if taken and filled + unit.tokens > budget:
                break
            flow.units.popleft()
            if flow.due > line.done:
                line.now = max(line.now, flow.tag)
            line.done += unit.tokens
            filled += unit.tokens
            self.tokens -= unit.tokens
            taken.append(unit)
            if flow.units:
                flow.tag += unit.tokens
                flow.due += SLOWDOWN * unit.tokens
                line.put(order, flow)
            else:
                del line.flows[order]
        return taken

    def record_rate(self, name: str, tokens: int, seconds: float) -> None:
        """The time of a batch, so that lines share time and not tokens."""
        line = self._lines.get(name)
        if line is not None and tokens:
            line.rate += RATE_UPDATE * (seconds / tokens - line.rate)

    def clear(self) -> list[Any]:
        """Drop everything; the requests that waited."""
        owners = [flow.owner for line in self._lines.values() for flow in line.flows.values()]
        self._lines.clear()
        self.tokens = 0
        return owners
