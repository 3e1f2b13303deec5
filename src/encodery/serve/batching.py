"""Who is next: texts that are due, between the requests of a line; start-time fair queueing between lines.

A line's clock counts the tokens it has done. A request's first unit is due when it comes, each further one SLOWER times
as much later as the tokens before it, and what is due first is served first. So a request of one short text is served
before the rest of a large one, as up to SLOWER of those keep ahead of what is due; and a large one never starves, nor
falls behind short ones that come without end: its next unit is due soon, later ones come after it. Lines share time
(Goyal, Vin & Cheng 1996). A batch holds units of one line only: a lane's, or those of lanes that are computed together.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

SLOWER = 8  # times the time that a request takes alone, in which it is to be done beside others


class Waiting(Protocol):
    """The request a unit belongs to."""

    @property
    def gone(self) -> bool:
        """Whether nobody waits for it any more."""


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """`number` of the unit in its request `owner`; `work` is what the lane made of it."""

    owner: Any
    number: int
    tokens: int
    work: Any


@dataclass(order=True, slots=True)
class _Flow:
    tag: int  # When the next unit is due.
    order: int
    units: deque[Unit] = field(compare=False)


@dataclass(slots=True)
class _Line:
    """`tag` of the line among lines, `now` its own clock, in tokens. `rate`: seconds a token."""

    tag: float = 0.0
    now: int = 0
    rate: float = 1e-4
    flows: list[_Flow] = field(default_factory=list)


class FairQueue:
    """Units that wait, by line. Not safe for threads by itself."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}
        self._now = 0.0
        self._order = 0
        self.tokens = 0

    def add(self, name: str, units: Sequence[Unit], first: bool = False) -> None:
        """A request's units, to a line; `first`: before all others of the line."""
        if not units:
            return
        line = self._lines.setdefault(name, _Line())
        if not line.flows:
            line.tag = max(line.tag, self._now)
        self._order += 1
        heapq.heappush(line.flows, _Flow(-1 if first else line.now, self._order, deque(units)))
        self.tokens += sum(unit.tokens for unit in units)

    def turn(self) -> str | None:
        """The line whose turn it is, None where nothing waits."""
        waiting = [(line.tag, name) for name, line in self._lines.items() if line.flows]
        return min(waiting)[1] if waiting else None

    def divisible(self, name: str) -> bool:
        """Whether more than one unit waits in a line."""
        flows = self._lines[name].flows
        return len(flows) > 1 or len(flows[0].units) > 1

    def take(self, name: str, budget: int, most: int = 1 << 20) -> list[Unit]:
        """The next batch of a line: at most `budget` tokens (one unit at least) and `most` units. Units of requests
        nobody waits for are dropped; where only such waited there is no batch."""
        line = self._lines[name]
        self._now = max(self._now, line.tag)
        taken = self._fill(line, budget, most)
        line.tag += line.rate * sum(unit.tokens for unit in taken)
        return taken

    def _fill(self, line: _Line, budget: int, most: int) -> list[Unit]:
        taken: list[Unit] = []
        filled = 0
        while line.flows and len(taken) < most:
            flow = line.flows[0]
            if flow.units[0].owner.gone:
                self.tokens -= sum(unit.tokens for unit in flow.units)
                heapq.heappop(line.flows)
                continue
            unit = flow.units[0]
            if taken and filled + unit.tokens > budget:
                break
            flow.units.popleft()
            line.now += unit.tokens
            flow.tag += SLOWER * unit.tokens
            filled += unit.tokens
            self.tokens -= unit.tokens
            taken.append(unit)
            if flow.units:
                heapq.heapreplace(line.flows, flow)
            else:
                heapq.heappop(line.flows)
        return taken

    def measured(self, name: str, tokens: int, seconds: float) -> None:
        """How long a batch took, so that lines share time and not tokens."""
        line = self._lines.get(name)
        if line is not None and tokens:
            line.rate += 0.2 * (seconds / tokens - line.rate)

    def forget(self) -> list[Any]:
        """Drop everything; the requests that waited."""
        owners = {id(u.owner): u.owner for line in self._lines.values() for flow in line.flows for u in flow.units}
        self._lines.clear()
        self.tokens = 0
        return list(owners.values())
