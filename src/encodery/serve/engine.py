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
from encodery.serve.admission import AdmissionController, Reservation
from encodery.serve.api_error import ApiError, as_api_error
from encodery.serve.batching import FairQueue, WorkUnit
from encodery.serve.costs import BatchCosts
from encodery.serve.served_model import InferenceRequest, InferenceResult, ServedModel, TokenizedRequest

BATCH_TOKENS = 2048  # where neither asked for nor measured
MIN_BATCH_TOKENS = 512  # of a batch, below which products of matrices lose speed


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
class PendingRequest:
    """A request on its way. `future` has its answer; `cancel` drops whatever of it has not been computed. `urgent`: it
    passes all others, and admission."""

    request: InferenceRequest
    reservation: Reservation
    urgent: bool = False
    future: Future[InferenceResult] = field(default_factory=Future)
    tokenized: TokenizedRequest | None = None
    outputs: list[Any] = field(default_factory=list)
    missing: int = 0
    submitted_at: float = field(default_factory=time.perf_counter)
    stages: dict[str, float] = field(default_factory=dict)
    ready_at: float = 0.0
    started_at: float = 0.0

    @property
    def settled(self) -> bool:
        """Whether nobody waits for it: answered, failed, or its client went away."""
        return self.future.done()

    def cancel(self) -> None:
        """Nobody waits any more."""
        self.future.cancel()


class ServingEngine:
    """Lanes at work. `submit` from any thread; close it, or use it as a context."""

    def __init__(
        self,
        lanes: Mapping[str, ServedModel],
        settings: EngineSettings | None = None,
        note: Callable[[str, str, float], None] | None = None,
        costs: Mapping[str, BatchCosts] | None = None,
    ) -> None:
        """`note(name, lane, value)` is told what is counted: see `gauges.py`. `costs`: of lanes that were measured."""
        self.models, self.settings = dict(lanes), settings or EngineSettings()
        self.record = note or (lambda name, lane, value: None)
        self._line = _lines(self.models)
        self.costs = {self._line[name]: known for name, known in (costs or {}).items()}
        self._facts = {name: lane.info() for name, lane in self.models.items()}
        self._narrow = {name: lane.single_threaded() for name, lane in self.models.items()}
        self.draining = False
        self._waiting = FairQueue()
        self._changed = threading.Condition()
        speeds = dict.fromkeys(self._line.values(), 0.0) | {line: one.speed for line, one in self.costs.items()}
        self._ledger = AdmissionController(speeds, self.settings.queue_tokens, self.settings.queue_seconds)
        self._tickets = set[PendingRequest]()
        self._running, self._wide, self._closed = 0, False, False
        self._to_read: queue.SimpleQueue[PendingRequest | None] = queue.SimpleQueue()
        self._to_run: queue.Queue[tuple[str, list[WorkUnit], bool | None] | None] = queue.Queue(1)
        self._to_finish: queue.SimpleQueue[PendingRequest | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(1)  # For the one batch that is made ready: a later one knows more.
        self._apart = {name: threading.Lock() for name, lane in self.models.items() if lane.exclusive}
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

    def __enter__(self) -> ServingEngine:
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

    def submit(self, request: InferenceRequest, urgent: bool = False) -> PendingRequest:
        """Let a request in, as a whole or not at all. Raises `Refusal`: unknown, too large, overloaded, draining."""
        if request.endpoint not in self.models:
            raise ApiError(404, "model_not_found", f"There is no '{request.endpoint}' here.", "model")
        estimate = request.estimate_tokens(self._longest(request))
        ticket = PendingRequest(request, Reservation(self._line[request.endpoint]), urgent)
        with self._changed:
            if self.draining or self._closed:
                raise ApiError(503, "draining", "The server is stopping; ask another one.", None, 5)
            if not urgent and self._tickets:
                self._admit(request.endpoint, estimate)
            self._ledger.reserve(ticket.reservation, estimate)
            self._tickets.add(ticket)
        ticket.future.add_done_callback(lambda _: self._release(ticket))
        self.record("accepted", request.endpoint, 1)
        self._to_read.put(ticket)
        return ticket

    def _longest(self, asked: InferenceRequest) -> int:
        """Tokens that a text may have at most: what is cut off or refused takes no time."""
        facts = self._facts[asked.endpoint]
        policy = asked.options.get("truncate") or facts.get("truncate")
        return int(facts["max_length"]) if "max_length" in facts and policy != "chunk" else 1 << 30

    def overload_error(self, what: str, most: int) -> ApiError | None:
        """Why any request for `what` of at most so many tokens would be refused now, whatever its model; None where one
        may be let in. For refusing early: `submit` has the last word."""
        with self._changed:
            if not self._tickets:
                return None
            lines = dict.fromkeys(line for name, line in self._line.items() if name.rpartition("/")[2] == what)
            found = [self._ledger.overload_error(line, 1, most) for line in lines]
        if not found or None in found:
            return None
        self.record("refused", what, 1)
        return found[0]

    def _admit(self, lane: str, tokens: int) -> None:
        """Raises `Refusal` where too much waits already."""
        refusal = self._ledger.overload_error(self._line[lane], tokens, tokens)
        if refusal is not None:
            self.record("refused", lane, 1)
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
            self._waiting.clear()
            self._changed.notify_all()
        self._room.release()
        for ticket in left:
            self._fail(ticket, ApiError(503, "stopped", "The server was stopped before this was answered."))
        for count, line in ((self.settings.readers, self._to_read), (self.settings.finishers, self._to_finish)):
            for _ in range(count):
                line.put(None)
        for thread in self._threads:
            thread.join(5)

    def _release(self, ticket: PendingRequest) -> None:
        if ticket.future.cancelled():
            self.record("cancelled", ticket.request.endpoint, 1)
        with self._changed:
            self._tickets.discard(ticket)
            self._ledger.reserve(ticket.reservation, 0)
            self._changed.notify_all()

    def _fail(self, ticket: PendingRequest, error: Exception) -> None:
        try:
            ticket.future.set_exception(as_api_error(error))
        except InvalidStateError:
            return  # Cancelled, or failed by another unit.
        self.record("failed", ticket.request.endpoint, 1)

    def _read(self) -> None:
        """First stage: texts to units."""
        while (ticket := self._to_read.get()) is not None:
            if ticket.settled:
                continue
            begun = time.perf_counter()
            ticket.stages["wait"] = begun - ticket.submitted_at
            try:
                reading = self.models[ticket.request.endpoint].tokenize(ticket.request)
                tokens = sum(reading.tokens)
                if tokens > self.settings.request_tokens:
                    raise ApiError(
                        400,
                        "too_many_tokens",
                        f"The request has {tokens} tokens, {self.settings.request_tokens} are allowed.",
                    )
            except BaseException as error:  # A thread of the engine never ends by a request.
                self._fail(ticket, error if isinstance(error, Exception) else RuntimeError(repr(error)))
                continue
            ticket.tokenized, ticket.ready_at = reading, time.perf_counter()
            ticket.stages["tokenise"] = ticket.ready_at - begun
            ticket.outputs, ticket.missing = [None] * len(reading.units), len(reading.units)
            self._queue(ticket, reading, tokens)

    def _queue(self, ticket: PendingRequest, reading: TokenizedRequest, tokens: int) -> None:
        units = [
            WorkUnit(ticket, number, int(count), work)
            for number, (work, count) in enumerate(zip(reading.units, reading.tokens, strict=True))
        ]
        with self._changed:
            if ticket.settled:
                return
            self._ledger.reserve(ticket.reservation, tokens)
            if units:
                line = ticket.reservation.line
                self._waiting.add(line, units, ticket.urgent, self._ledger.grace_tokens(line))
                self._changed.notify_all()
        if not units:
            ticket.started_at = ticket.ready_at
            self._to_finish.put(ticket)

    def _form(self) -> None:
        """Makes the next batch while one is run."""
        while True:
            self._room.acquire()
            with self._changed:
                self._changed.wait_for(lambda: self._waiting.tokens > 0 or self._closed)
                line = self._waiting.next_line()
                if self._closed or line is None:
                    break
                budget, narrow = self._portion(line)
                units = self._waiting.take(line, budget, self.models[line].max_units)
                self.record("waiting", "", self._waiting.tokens)
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
            return costs.next_batch(waiting, self._waiting.divisible(line), most)
        return min(most, max(MIN_BATCH_TOKENS, -(-waiting // self.runners))), None

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

    def _compute(self, line: str, units: list[WorkUnit], wide: bool) -> None:
        begun, tokens = time.perf_counter(), sum(unit.tokens for unit in units)
        for unit in units:
            unit.owner.first = unit.owner.first or begun
        found = self._outputs(line, units, wide)
        seconds = time.perf_counter() - begun
        self.record("batch_tokens", line, tokens)
        self.record("batch_seconds", line, seconds)
        done = []
        with self._changed:
            self._waiting.record_rate(line, tokens, seconds)
            self._ledger.batch_finished(line, tokens, bool(self._waiting.tokens) or not self._to_run.empty())
            for unit, output in zip(units, found, strict=True):
                ticket: PendingRequest = unit.owner
                self._ledger.set_remaining(ticket.reservation, max(ticket.reservation.left - unit.tokens, 0))
                if isinstance(output, ApiError):
                    continue
                ticket.outputs[unit.number] = output
                ticket.missing -= 1
                if not ticket.missing:
                    done.append(ticket)
        for unit, output in zip(units, found, strict=True):
            if isinstance(output, ApiError):
                self._fail(unit.owner, output)
        for ticket in done:
            self._to_finish.put(ticket)

    def _outputs(self, line: str, units: Sequence[WorkUnit], wide: bool) -> list[Any]:
        """What each unit gives, a `Refusal` for those at fault: a batch that fails is run again in halves."""
        try:
            found = self._given(line, units, wide)
            if len(found) != len(units):
                raise RuntimeError(f"{line} gave {len(found)} outputs for {len(units)} units")
            return found
        except BaseException as error:
            if len(units) == 1:
                return [
                    as_api_error(error) if isinstance(error, Exception) else as_api_error(RuntimeError(repr(error)))
                ]
        self.record("halved", line, 1)
        half = len(units) // 2
        return self._outputs(line, units[:half], wide) + self._outputs(line, units[half:], wide)

    def _given(self, line: str, units: Sequence[WorkUnit], wide: bool) -> list[Any]:
        lanes, company = self.models if wide else self._narrow, self.models[line].batch_group
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
            if ticket.settled or ticket.tokenized is None:
                continue
            begun, lane = time.perf_counter(), ticket.request.endpoint
            try:
                answer = self.models[lane].finish(ticket.tokenized.context, ticket.outputs)
            except BaseException as error:
                self._fail(ticket, error if isinstance(error, Exception) else RuntimeError(repr(error)))
                continue
            now = time.perf_counter()
            stages = ticket.stages | {"queue": ticket.started_at - ticket.ready_at, "run": begun - ticket.started_at}
            answer.seconds = stages | {"finish": now - begun, "total": now - ticket.submitted_at}
            for stage, seconds in answer.seconds.items():
                self.record(f"{stage}_seconds", lane, seconds)
            self.record("dropped_tokens", lane, sum(answer.dropped))
            try:
                ticket.future.set_result(answer)
            except InvalidStateError:
                continue


def _lines(lanes: Mapping[str, ServedModel]) -> dict[str, str]:
    """The line each lane's units wait in: its own, or that of the first lane of its company."""
    found: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, lane in lanes.items():
        found[name] = name if lane.batch_group is None else first.setdefault(id(lane.batch_group), name)
    return found
