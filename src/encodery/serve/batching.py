"""Who is next: start-time fair queueing, by tokens, between lanes and between the requests of a lane; what is overdue.

Goyal, Vin & Cheng 1996. Each request is a flow; it has a tag, the virtual time at which its next unit starts, and the
least tag is served. A request of one short text is so served before the rest of one of ten thousand. Where short ones
come without end that alone would starve the large one, whose tag is always later than that of who comes now: so its
units are due too, after a time of grace and then one after another, SLOWER times as slowly as alone, and what is
overdue goes first. A batch holds units of one line only: a lane's, or those of lanes that are computed together.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

UNLIMITED_GRACE = 1 << 60  # tokens of grace: of what is never due
SLOWDOWN = 8  # times the time that a request takes alone, in which it is to be done beside others


class UnitOwner(Protocol):
    """The request a unit belongs to."""

    @property
    def gone(self) -> bool:
        """Whether nobody waits for it any more."""


@dataclass(frozen=True, slots=True, eq=False)
class WorkUnit:
    """`number` of the unit in its request `owner`; `work` is what the lane made of it."""

    owner: Any
    number: int
    tokens: int
    work: Any


@dataclass(slots=True)
class _Flow:
    """`tag` and `due` of its next unit; `owner`: the request."""

    owner: Any
    tag: int
    due: int
    units: deque[WorkUnit]


@dataclass(slots=True)
class _Line:
    """`tag` of the line among lines, `now` its own virtual time, `done` its tokens ever. `rate`: seconds a token.
    `flows` by their order; `tags` and `dues` are heaps of (time, order), also of times that a flow no longer has."""

    tag: float = 0.0
    now: int = 0
    done: int = 0
    rate: float = 1e-4
    flows: dict[int, _Flow] = field(default_factory=dict)
    tags: list[tuple[int, int]] = field(default_factory=list)
    dues: list[tuple[int, int]] = field(default_factory=list)

    def put(self, order: int, flow: _Flow) -> None:
        """A flow whose next unit is another."""
        self.flows[order] = flow
        heapq.heappush(self.tags, (flow.tag, order))
        heapq.heappush(self.dues, (flow.due, order))

    def next(self) -> int | None:
        """The order of the flow whose turn it is."""
        while self.tags and ((one := self.flows.get(self.tags[0][1])) is None or one.tag != self.tags[0][0]):
            heapq.heappop(self.tags)
        while self.dues and ((one := self.flows.get(self.dues[0][1])) is None or one.due != self.dues[0][0]):
            heapq.heappop(self.dues)
        if not self.tags:
            return None
        return self.dues[0][1] if self.dues[0][0] <= self.done else self.tags[0][1]


class FairQueue:
    """Units that wait, by line. Not safe for threads by itself."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}
        self._now = 0.0
        self._order = 0
        self.tokens = 0

    def add(self, name: str, units: Sequence[WorkUnit], first: bool = False, grace: int = UNLIMITED_GRACE) -> None:
        """A request's units, to a line; `first`: before all others of the line; `grace`: tokens of the line that may
        be done before its first unit is due."""
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
        """The line whose turn it is, None where nothing waits."""
        waiting = [(line.tag, name) for name, line in self._lines.items() if line.flows]
        return min(waiting)[1] if waiting else None

    def divisible(self, name: str) -> bool:
        """Whether more than one unit waits in a line."""
        flows = self._lines[name].flows
        return len(flows) > 1 or any(len(flow.units) > 1 for flow in flows.values())

    def take(self, name: str, budget: int, max_units: int = 1 << 20) -> list[WorkUnit]:
        """The next batch of a line: at most `budget` tokens (one unit at least) and `most` units. Units of requests
        nobody waits for are dropped; where only such waited there is no batch."""
        line = self._lines[name]
        self._now = max(self._now, line.tag)
        taken = self._fill(line, budget, max_units)
        line.tag += line.rate * sum(unit.tokens for unit in taken)
        return taken

    def _fill(self, line: _Line, budget: int, most: int) -> list[WorkUnit]:
        taken: list[WorkUnit] = []
        filled = 0
        while len(taken) < most and (order := line.next()) is not None:
            flow = line.flows[order]
            if flow.owner.gone:
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
        """How long a batch took, so that lines share time and not tokens."""
        line = self._lines.get(name)
        if line is not None and tokens:
            line.rate += 0.2 * (seconds / tokens - line.rate)

    def clear(self) -> list[Any]:
        """Drop everything; the requests that waited."""
        owners = [flow.owner for line in self._lines.values() for flow in line.flows.values()]
        self._lines.clear()
        self.tokens = 0
        return owners
