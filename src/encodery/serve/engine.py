"""The engine: requests through tokenise → run → finish, each stage with threads and a queue of its own.

No stage waits for another's request, and nothing waits for company: an idle engine runs a text at once, a busy one runs
what has come together meanwhile, up to a budget of tokens, with one further batch made ready. Admission is by tokens,
whole requests at a time. A batch that fails is halved until the unit at fault stands alone; the others are answered.
The heavy work of every stage (tokenizers, matrix products) runs outside Python's lock.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

from encodery.base import machine
from encodery.serve.batching import FairQueue, Unit
from encodery.serve.lane import Answer, Asked, Lane, Reading
from encodery.serve.refusal import Refusal, refused

FEWEST_TOKENS = 512  # of a batch, below which products of matrices lose speed
CHARACTERS = 4  # a token, until the tokens are counted
LONGEST_WAIT = 60  # seconds told to a client to stay away at most


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """`batch_tokens`: computed at once; `queue_tokens`: of all requests that were let in and not yet answered;
    `request_tokens`: of one request, `request_inputs` of one; `readers`, `runners`, `finishers`: threads of each stage
    (None: as many runners as `cores` on a CPU, one on a GPU)."""

    batch_tokens: int = 2048
    queue_tokens: int = 1 << 20
    request_tokens: int = 300_000
    request_inputs: int = 2048
    readers: int = 2
    runners: int | None = None
    finishers: int = 2
    cores: int | None = None


@dataclass(eq=False)
class Ticket:
    """A request on its way. `future` has its answer; `cancel` drops whatever of it has not been computed."""

    asked: Asked
    reserved: int
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
    ) -> None:
        """`note(name, lane, value)` is told what is counted: see `gauges.py`."""
        self.lanes, self.settings = dict(lanes), settings or EngineSettings()
        self.note = note or (lambda name, lane, value: None)
        self.most = {name: lane.most for name, lane in self.lanes.items()}
        self.draining = False
        self._waiting = FairQueue()
        self._changed = threading.Condition()
        self._reserved, self._tickets, self._running, self._speed = 0, set[Ticket](), 0, 0.0
        self._closed = False
        self._to_read: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._to_run: queue.Queue[tuple[str, list[Unit]] | None] = queue.Queue(1)
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
        return self._reserved

    @property
    def requests(self) -> int:
        """On their way."""
        return len(self._tickets)

    def submit(self, asked: Asked) -> Ticket:
        """Let a request in, as a whole or not at all. Raises `Refusal`: unknown, too large, overloaded, draining."""
        if asked.lane not in self.lanes:
            raise Refusal(404, "model_not_found", f"There is no '{asked.lane}' here.", "model")
        estimate = asked.characters // CHARACTERS + 2
        with self._changed:
            if self.draining or self._closed:
                raise Refusal(503, "draining", "The server is stopping; ask another one.", None, 5)
            if self._tickets and self._reserved + estimate > self.settings.queue_tokens:
                self.note("refused", asked.lane, 1)
                raise Refusal(
                    429,
                    "overloaded",
                    f"{self._reserved} tokens wait already, and {self.settings.queue_tokens} may. Ask again later.",
                    None,
                    self._patience(),
                )
            ticket = Ticket(asked, estimate)
            self._reserved += estimate
            self._tickets.add(ticket)
        ticket.future.add_done_callback(lambda _: self._release(ticket))
        self.note("accepted", asked.lane, 1)
        self._to_read.put(ticket)
        return ticket

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
            self._reserved -= ticket.reserved
            ticket.reserved = 0
            self._changed.notify_all()

    def _patience(self) -> int:
        """Seconds until what waits now will be done, as far as is known."""
        return min(LONGEST_WAIT, max(1, round(self._reserved / self._speed))) if self._speed else 1

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
            self._reserved += tokens - ticket.reserved
            ticket.reserved = tokens
            if units:
                self._waiting.add(ticket.asked.lane, units)
                self._changed.notify_all()
        if not units:
            ticket.first = ticket.ready
            self._to_finish.put(ticket)

    def _form(self) -> None:
        """Makes the next batch while one is run. With several runners what waits is shared between them."""
        while True:
            self._room.acquire()
            with self._changed:
                self._changed.wait_for(lambda: self._waiting.tokens > 0 or self._closed)
                if self._closed:
                    break
                share = -(-self._waiting.tokens // self.runners)
                budget = min(self.settings.batch_tokens, max(FEWEST_TOKENS, share))
                lane, units = self._waiting.take(budget, self.most)
                self.note("waiting", "", self._waiting.tokens)
            if units:
                self._to_run.put((lane, units))
            else:
                self._room.release()
        for _ in range(self.runners):
            self._to_run.put(None)

    def _run(self) -> None:
        """Second stage: batches to outputs."""
        threads = 0
        while (batch := self._to_run.get()) is not None:
            self._room.release()
            lane, units = batch
            units = [unit for unit in units if not unit.owner.gone]
            if not units:
                continue
            with self._changed:
                self._running += 1
                alone = self._running == 1 and not self._waiting.tokens and self._to_run.empty()
            wanted = self._cores if alone or self.runners == 1 else 1
            if wanted != threads:
                machine.set_threads(wanted)
                threads = wanted
            try:
                if lane in self._apart:
                    with self._apart[lane]:
                        self._compute(lane, units)
                else:
                    self._compute(lane, units)
            finally:
                with self._changed:
                    self._running -= 1

    def _compute(self, lane: str, units: list[Unit]) -> None:
        begun, tokens = time.perf_counter(), sum(unit.tokens for unit in units)
        for unit in units:
            unit.owner.first = unit.owner.first or begun
        found = self._outputs(lane, units)
        seconds = time.perf_counter() - begun
        self.note("batch_tokens", lane, tokens)
        self.note("batch_seconds", lane, seconds)
        done = []
        with self._changed:
            self._waiting.measured(lane, tokens, seconds)
            speed = self.runners * tokens / max(seconds, 1e-9)
            self._speed += (0.1 if self._speed else 1.0) * (speed - self._speed)
            for unit, output in zip(units, found, strict=True):
                ticket: Ticket = unit.owner
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

    def _outputs(self, lane: str, units: Sequence[Unit]) -> list[Any]:
        """What each unit gives, a `Refusal` for those at fault: a batch that fails is run again in halves."""
        try:
            found = list(self.lanes[lane].run([unit.work for unit in units]))
            if len(found) != len(units):
                raise RuntimeError(f"{lane} gave {len(found)} outputs for {len(units)} units")
            return found
        except BaseException as error:
            if len(units) == 1:
                return [refused(error) if isinstance(error, Exception) else refused(RuntimeError(repr(error)))]
        self.note("halved", lane, 1)
        half = len(units) // 2
        return self._outputs(lane, units[:half]) + self._outputs(lane, units[half:])

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
