"""The engine: requests through tokenise → run → finish, each stage with threads and a queue of its own.

No stage waits for another's request, and nothing waits for company: an idle engine runs a text at once, a busy one runs
what has come together meanwhile, up to a budget of tokens, with one further batch made ready. A batch has all cores, or
one beside others: as the costs measured on this machine say (`costs.py`), else all where nothing else is to be done.
Admission is by tokens, whole requests at a time, and by how long what stands before a request will take
(`admission.py`). A batch that fails is halved until the unit at fault stands alone; the others are answered. The heavy
work of every stage (tokenizers, matrix products) runs outside Python's lock.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

from encodery.base import machine
from encodery.serve.admission import Ledger, Share
from encodery.serve.batching import FairQueue, Unit
from encodery.serve.costs import Costs
from encodery.serve.lane import Answer, Asked, Lane, Reading
from encodery.serve.refusal import Refusal, refused

BATCH_TOKENS = 2048  # where neither asked for nor measured
FEWEST_TOKENS = 512  # of a batch, below which products of matrices lose speed


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """`batch_tokens`: computed at once (None: as measured, else 2048); `queue_tokens`: of all requests that were let in
    and not yet answered; `queue_seconds`: that a new request may have to wait, or as long as it takes itself where
    that is more; `request_tokens`: of one request, `request_inputs` of one; `readers`, `runners`, `finishers`: threads
    of each stage (None: as many runners as `cores` on a CPU, one on a GPU)."""

    batch_tokens: int | None = None
    queue_tokens: int = 1 << 20
    queue_seconds: float = 2.0
    request_tokens: int = 300_000
    request_inputs: int = 2048
    readers: int = 2
    runners: int | None = None
    finishers: int = 2
    cores: int | None = None


@dataclass(eq=False)
class Ticket:
    """A request on its way. `future` has its answer; `cancel` drops whatever of it has not been computed. `urgent`: it
    passes all others, and admission."""

    asked: Asked
    share: Share
    urgent: bool = False
    future: Future[Answer] = field(default_factory=Future)
    reading: Reading | None = None
    outputs: list[Any] = field(default_factory=list)
    missing: int = 0
    began: float = field(default_factory=time.perf_counter)
    stages: dict[str, float] = field(default_factory=dict)
    ready: float = 0.0
    first: float = 0.0

    @property
    def gone(self) -> bool:
        """Whether nobody waits for it: answered, failed, or its client went away."""
        return self.future.done()

    def cancel(self) -> None:
        """Nobody waits any more."""
        self.future.cancel()


class Engine:
    """Lanes at work. `submit` from any thread; close it, or use it as a context."""

    def __init__(
        self,
        lanes: Mapping[str, Lane],
        settings: EngineSettings | None = None,
        note: Callable[[str, str, float], None] | None = None,
        costs: Mapping[str, Costs] | None = None,
    ) -> None:
        """`note(name, lane, value)` is told what is counted: see `gauges.py`. `costs`: of lanes that were measured."""
        self.lanes, self.settings = dict(lanes), settings or EngineSettings()
        self.note = note or (lambda name, lane, value: None)
        self._line = _lines(self.lanes)
        self.costs = {self._line[name]: known for name, known in (costs or {}).items()}
        self._facts = {name: lane.facts() for name, lane in self.lanes.items()}
        self._narrow = {name: lane.narrow() for name, lane in self.lanes.items()}
        self.draining = False
        self._waiting = FairQueue()
        self._changed = threading.Condition()
        speeds = dict.fromkeys(self._line.values(), 0.0) | {line: one.speed for line, one in self.costs.items()}
        self._ledger = Ledger(speeds, self.settings.queue_tokens, self.settings.queue_seconds)
        self._tickets = set[Ticket]()
        self._running, self._wide, self._closed = 0, False, False
        self._to_read: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._to_run: queue.Queue[tuple[str, list[Unit], bool | None] | None] = queue.Queue(1)
        self._to_finish: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(1)  # For the one batch that is made ready: a later one knows more.
        self._apart = {name: threading.Lock() for name, lane in self.lanes.items() if lane.apart}
        self._cores = self.settings.cores or machine.threads()
        self.runners = self.settings.runners or (1 if machine.device().type != "cpu" else self._cores)
        work = [(self._read, self.settings.readers), (self._form, 1), (self._run, self.runners)]
        work.append((self._finish, self.settings.finishers))
        self._threads = [
            threading.Thread(target=function, name=f"encodery{function.__name__}-{number}", daemon=True)
            for function, count in work
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def tokens(self) -> int:
        """Of all requests on their way."""
        return self._ledger.tokens

    @property
    def requests(self) -> int:
        """On their way."""
        return len(self._tickets)

    def submit(self, asked: Asked, urgent: bool = False) -> Ticket:
        """Let a request in, as a whole or not at all. Raises `Refusal`: unknown, too large, overloaded, draining."""
        if asked.lane not in self.lanes:
            raise Refusal(404, "model_not_found", f"There is no '{asked.lane}' here.", "model")
        estimate = asked.tokens(self._longest(asked))
        ticket = Ticket(asked, Share(self._line[asked.lane]), urgent)
        with self._changed:
            if self.draining or self._closed:
                raise Refusal(503, "draining", "The server is stopping; ask another one.", None, 5)
            if not urgent and self._tickets:
                self._admit(asked.lane, estimate)
            self._ledger.reserve(ticket.share, estimate)
            self._tickets.add(ticket)
        ticket.future.add_done_callback(lambda _: self._release(ticket))
        self.note("accepted", asked.lane, 1)
        self._to_read.put(ticket)
        return ticket

    def _longest(self, asked: Asked) -> int:
        """Tokens that a text may have at most: what is cut off or refused takes no time."""
        facts = self._facts[asked.lane]
        policy = asked.options.get("truncate") or facts.get("truncate")
        return int(facts["max_length"]) if "max_length" in facts and policy != "chunk" else 1 << 30

    def full(self, what: str, most: int) -> Refusal | None:
        """Why any request for `what` of at most so many tokens would be refused now, whatever its model; None where one
        may be let in. For refusing early: `submit` has the last word."""
        with self._changed:
            if not self._tickets:
                return None
            lines = dict.fromkeys(line for name, line in self._line.items() if name.rpartition("/")[2] == what)
            found = [self._ledger.refusal(line, 1, most) for line in lines]
        if not found or None in found:
            return None
        self.note("refused", what, 1)
        return found[0]

    def _admit(self, lane: str, tokens: int) -> None:
        """Raises `Refusal` where too much waits already."""
        refusal = self._ledger.refusal(self._line[lane], tokens, tokens)
        if refusal is not None:
            self.note("refused", lane, 1)
            raise refusal

    def drain(self, seconds: float) -> bool:
        """Take nothing more, wait until what was taken is answered; whether it was, in that time."""
        with self._changed:
            self.draining = True
            return self._changed.wait_for(lambda: not self._tickets, seconds)

    def close(self) -> None:
        """Stop; what is still on its way is refused."""
        with self._changed:
            self.draining = self._closed = True
            left = list(self._tickets)
            self._waiting.forget()
            self._changed.notify_all()
        self._room.release()
        for ticket in left:
            self._fail(ticket, Refusal(503, "stopped", "The server was stopped before this was answered."))
        for count, line in ((self.settings.readers, self._to_read), (self.settings.finishers, self._to_finish)):
            for _ in range(count):
                line.put(None)
        for thread in self._threads:
            thread.join(5)

    def _release(self, ticket: Ticket) -> None:
        if ticket.future.cancelled():
            self.note("cancelled", ticket.asked.lane, 1)
        with self._changed:
            self._tickets.discard(ticket)
            self._ledger.reserve(ticket.share, 0)
            self._changed.notify_all()

    def _fail(self, ticket: Ticket, error: Exception) -> None:
        try:
            ticket.future.set_exception(refused(error))
        except InvalidStateError:
            return  # Cancelled, or failed by another unit.
        self.note("failed", ticket.asked.lane, 1)

    def _read(self) -> None:
        """First stage: texts to units."""
        while (ticket := self._to_read.get()) is not None:
            if ticket.gone:
                continue
            begun = time.perf_counter()
            ticket.stages["wait"] = begun - ticket.began
            try:
                reading = self.lanes[ticket.asked.lane].read(ticket.asked)
                tokens = sum(reading.tokens)
                if tokens > self.settings.request_tokens:
                    raise Refusal(
                        400,
                        "too_many_tokens",
                        f"The request has {tokens} tokens, {self.settings.request_tokens} are allowed.",
                    )
            except BaseException as error:  # A thread of the engine never ends by a request.
                self._fail(ticket, error if isinstance(error, Exception) else RuntimeError(repr(error)))
                continue
            ticket.reading, ticket.ready = reading, time.perf_counter()
            ticket.stages["tokenise"] = ticket.ready - begun
            ticket.outputs, ticket.missing = [None] * len(reading.units), len(reading.units)
            self._queue(ticket, reading, tokens)

    def _queue(self, ticket: Ticket, reading: Reading, tokens: int) -> None:
        units = [
            Unit(ticket, number, int(count), work)
            for number, (work, count) in enumerate(zip(reading.units, reading.tokens, strict=True))
        ]
        with self._changed:
            if ticket.gone:
                return
            self._ledger.reserve(ticket.share, tokens)
            if units:
                line = ticket.share.line
                self._waiting.add(line, units, ticket.urgent, self._ledger.grace(line))
                self._changed.notify_all()
        if not units:
            ticket.first = ticket.ready
            self._to_finish.put(ticket)

    def _form(self) -> None:
        """Makes the next batch while one is run."""
        while True:
            self._room.acquire()
            with self._changed:
                self._changed.wait_for(lambda: self._waiting.tokens > 0 or self._closed)
                line = self._waiting.turn()
                if self._closed or line is None:
                    break
                budget, narrow = self._portion(line)
                units = self._waiting.take(line, budget, self.lanes[line].most)
                self.note("waiting", "", self._waiting.tokens)
            if units:
                self._to_run.put((line, units, narrow))
            else:
                self._room.release()
        for _ in range(self.runners):
            self._to_run.put(None)

    def _portion(self, line: str) -> tuple[int, bool | None]:
        """Tokens of the next batch, and whether it is for one core beside others (None: not known beforehand)."""
        waiting, costs = self._waiting.tokens, self.costs.get(line)
        most = self.settings.batch_tokens or (costs.batch_tokens if costs else BATCH_TOKENS)
        if costs is not None:
            return costs.portion(waiting, self._waiting.divisible(line), most)
        return min(most, max(FEWEST_TOKENS, -(-waiting // self.runners))), None

    def _run(self) -> None:
        """Second stage: batches to outputs."""
        threads = 0
        while (batch := self._to_run.get()) is not None:
            self._room.release()
            line, units, narrow = batch
            units = [unit for unit in units if not unit.owner.gone]
            if not units:
                continue
            with self._apart.get(line, contextlib.nullcontext()):
                wide = self._begin(narrow)
                wanted = self._cores if wide else 1
                if wanted != threads:
                    machine.set_threads(wanted)
                    threads = wanted
                try:
                    self._compute(line, units, wide)
                finally:
                    with self._changed:
                        self._running -= 1
                        self._wide = False
                        self._changed.notify_all()

    def _begin(self, narrow: bool | None) -> bool:
        """Whether a batch has all cores, none other being run meanwhile; returns when it may begin."""
        with self._changed:
            self._changed.wait_for(lambda: not self._wide)
            self._running += 1
            if narrow is None:
                narrow = bool(self._waiting.tokens) or not self._to_run.empty()
            self._wide = self.runners == 1 or (self._running == 1 and not narrow)
            return self._wide

    def _compute(self, line: str, units: list[Unit], wide: bool) -> None:
        begun, tokens = time.perf_counter(), sum(unit.tokens for unit in units)
        for unit in units:
            unit.owner.first = unit.owner.first or begun
        found = self._outputs(line, units, wide)
        seconds = time.perf_counter() - begun
        self.note("batch_tokens", line, tokens)
        self.note("batch_seconds", line, seconds)
        done = []
        with self._changed:
            self._waiting.measured(line, tokens, seconds)
            self._ledger.ended(line, tokens, bool(self._waiting.tokens) or not self._to_run.empty())
            for unit, output in zip(units, found, strict=True):
                ticket: Ticket = unit.owner
                self._ledger.owe(ticket.share, max(ticket.share.left - unit.tokens, 0))
                if isinstance(output, Refusal):
                    continue
                ticket.outputs[unit.number] = output
                ticket.missing -= 1
                if not ticket.missing:
                    done.append(ticket)
        for unit, output in zip(units, found, strict=True):
            if isinstance(output, Refusal):
                self._fail(unit.owner, output)
        for ticket in done:
            self._to_finish.put(ticket)

    def _outputs(self, line: str, units: Sequence[Unit], wide: bool) -> list[Any]:
        """What each unit gives, a `Refusal` for those at fault: a batch that fails is run again in halves."""
        try:
            found = self._given(line, units, wide)
            if len(found) != len(units):
                raise RuntimeError(f"{line} gave {len(found)} outputs for {len(units)} units")
            return found
        except BaseException as error:
            if len(units) == 1:
                return [refused(error) if isinstance(error, Exception) else refused(RuntimeError(repr(error)))]
        self.note("halved", line, 1)
        half = len(units) // 2
        return self._outputs(line, units[:half], wide) + self._outputs(line, units[half:], wide)

    def _given(self, line: str, units: Sequence[Unit], wide: bool) -> list[Any]:
        lanes, company = self.lanes if wide else self._narrow, self.lanes[line].company
        if company is None:
            return list(lanes[line].run([unit.work for unit in units]))
        places: dict[str, list[int]] = {}
        for place, unit in enumerate(units):
            places.setdefault(unit.owner.asked.lane, []).append(place)
        parts = [(lanes[name], [units[place].work for place in some]) for name, some in places.items()]
        found: dict[int, Any] = {}
        for some, outputs in zip(places.values(), company.run(parts), strict=True):
            found.update(zip(some, outputs, strict=True))
        return [found[place] for place in range(len(units))]

    def _finish(self) -> None:
        """Third stage: outputs to answers."""
        while (ticket := self._to_finish.get()) is not None:
            if ticket.gone or ticket.reading is None:
                continue
            begun, lane = time.perf_counter(), ticket.asked.lane
            try:
                answer = self.lanes[lane].finish(ticket.reading.told, ticket.outputs)
            except BaseException as error:
                self._fail(ticket, error if isinstance(error, Exception) else RuntimeError(repr(error)))
                continue
            now = time.perf_counter()
            stages = ticket.stages | {"queue": ticket.first - ticket.ready, "run": begun - ticket.first}
            answer.seconds = stages | {"finish": now - begun, "total": now - ticket.began}
            for stage, seconds in answer.seconds.items():
                self.note(f"{stage}_seconds", lane, seconds)
            self.note("dropped_tokens", lane, sum(answer.dropped))
            try:
                ticket.future.set_result(answer)
            except InvalidStateError:
                continue


def _lines(lanes: Mapping[str, Lane]) -> dict[str, str]:
    """The line each lane's units wait in: its own, or that of the first lane of its company."""
    found: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, lane in lanes.items():
        found[name] = name if lane.company is None else first.setdefault(id(lane.company), name)
    return found
