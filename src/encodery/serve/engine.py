"""The serving engine: requests pass through tokenise → run → finish, each stage with its own threads and queue.

No stage waits for another stage's request, and no request waits for a batch to fill: an idle engine runs a text at
once; a busy one runs the units that arrived meanwhile, up to a number of tokens (`scheduler.py`, `executor.py`).
Admission is by tokens, whole requests at a time, and by the time until a request would start (`admission.py`). The
expensive work of every stage, tokenizers and matrix products, releases Python's global lock.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from encodery.base import machine
from encodery.serve.admission import AdmissionController, Reservation
from encodery.serve.api_error import ApiError, as_api_error
from encodery.serve.batching import WorkUnit
from encodery.serve.costs import BatchCosts
from encodery.serve.executor import Executor
from encodery.serve.pending_request import PendingRequest
from encodery.serve.scheduler import Scheduler, UnitBatch
from encodery.serve.served_model import InferenceRequest, ServedModel, TokenizedRequest
from encodery.serve.server_metrics import Record

UNLIMITED_LENGTH = 1 << 30
JOIN_SECONDS = 5


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """`batch_tokens`: computed at once (None: as measured, else 2048); `queue_tokens`: of all requests that were
    admitted and have no result yet; `queue_seconds`: that a new request may have to wait, or as long as it takes itself
    if that is more; `request_tokens` and `request_inputs`: of one request; `readers`, `runners`, `finishers`: threads
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


class ServingEngine:
    """Runs the models of a server. `submit` can be called from any thread; close the engine, or use it as a context."""

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        settings: EngineSettings | None = None,
        record: Record | None = None,
        costs: Mapping[str, BatchCosts] | None = None,
    ) -> None:
        """`models` by endpoint; `record(name, endpoint, value)` gets what `server_metrics.py` counts; `costs`: measured
        batch costs by endpoint."""
        self.models, self.settings = dict(models), settings or EngineSettings()
        self.record = record or (lambda name, endpoint, value: None)
        self.draining = False
        self._lines = _lines(self.models)
        costs_by_line = {self._lines[name]: measured for name, measured in (costs or {}).items()}
        self._info = {name: model.info() for name, model in self.models.items()}
        self._changed = threading.Condition()
        speeds = dict.fromkeys(self._lines.values(), 0.0) | {line: one.speed for line, one in costs_by_line.items()}
        self._admission = AdmissionController(speeds, self.settings.queue_tokens, self.settings.queue_seconds)
        self._pending = set[PendingRequest]()
        self._closed = False
        self._to_tokenize: queue.SimpleQueue[PendingRequest | None] = queue.SimpleQueue()
        self._to_finish: queue.SimpleQueue[PendingRequest | None] = queue.SimpleQueue()
        cores = self.settings.cores or machine.threads()
        self.runners = self.settings.runners or (1 if machine.device().type != "cpu" else cores)
        self.scheduler = Scheduler(
            self.models, costs_by_line, self.settings.batch_tokens, self.runners, self._changed, self.record
        )
        self.executor = Executor(self.models, self.scheduler, cores, self._completed, self._changed, self.record)
        self._threads = self._start_threads()

    def _start_threads(self) -> list[threading.Thread]:
        stages = {
            "tokenize": (self._tokenize, self.settings.readers),
            "schedule": (self.scheduler.run, 1),
            "run": (self.executor.run, self.runners),
            "finish": (self._finish, self.settings.finishers),
        }
        threads = [
            threading.Thread(target=function, name=f"encodery-{stage}-{number}", daemon=True)
            for stage, (function, count) in stages.items()
            for number in range(count)
        ]
        for thread in threads:
            thread.start()
        return threads

    def __enter__(self) -> ServingEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def tokens(self) -> int:
        """Of all pending requests."""
        return self._admission.tokens

    @property
    def requests(self) -> int:
        """The number of pending requests."""
        return len(self._pending)

    @property
    def is_alive(self) -> bool:
        """Whether any thread of a stage still runs."""
        return any(thread.is_alive() for thread in self._threads)

    def submit(self, request: InferenceRequest, urgent: bool = False) -> PendingRequest:
        """Admit a request, as a whole or not at all. Raises `ApiError`: unknown, overloaded, draining."""
        if request.endpoint not in self.models:
            raise ApiError(404, "model_not_found", f"There is no '{request.endpoint}' on this server.", "model")
        estimate = request.estimate_tokens(self._max_length(request))
        pending = PendingRequest(request, Reservation(self._lines[request.endpoint]), urgent)
        with self._changed:
            if self.draining or self._closed:
                raise ApiError(503, "draining", "The server is stopping; ask another one.", None, 5)
            if not urgent and self._pending:
                self._admit(request.endpoint, estimate)
            self._admission.reserve(pending.reservation, estimate)
            self._pending.add(pending)
        pending.future.add_done_callback(lambda _: self._release(pending))
        self.record("accepted", request.endpoint, 1)
        self._to_tokenize.put(pending)
        return pending

    def _max_length(self, request: InferenceRequest) -> int:
        """Tokens of a text that cost time: those that are cut off or refused do not."""
        info = self._info[request.endpoint]
        truncate = request.options.get("truncate") or info.get("truncate")
        return int(info["max_length"]) if "max_length" in info and truncate != "chunk" else UNLIMITED_LENGTH

    def overload_error(self, operation: str, max_tokens: int) -> ApiError | None:
        """The error that any request for `operation` of at most `max_tokens` would get now, whatever its model; None if
        one can be admitted. For refusing a request early: `submit` decides."""
        with self._changed:
            if not self._pending:
                return None
            lines = dict.fromkeys(line for name, line in self._lines.items() if name.rpartition("/")[2] == operation)
            errors = [self._admission.overload_error(line, 1, max_tokens) for line in lines]
        if not errors or None in errors:
            return None
        self.record("refused", operation, 1)
        return errors[0]

    def _admit(self, endpoint: str, tokens: int) -> None:
        """Raises `ApiError` if too much waits already."""
        error = self._admission.overload_error(self._lines[endpoint], tokens, tokens)
        if error is not None:
            self.record("refused", endpoint, 1)
            raise error

    def drain(self, seconds: float) -> bool:
        """Admit nothing more and wait for the pending requests; whether all of them were settled in time."""
        with self._changed:
            self.draining = True
            return self._changed.wait_for(lambda: not self._pending, seconds)

    def close(self) -> None:
        """Stop all threads; requests that are still pending fail."""
        with self._changed:
            self.draining = self._closed = True
            unsettled = list(self._pending)
            self.scheduler.close()
        for pending in unsettled:
            self._fail(pending, ApiError(503, "stopped", "The server was stopped before this request was computed."))
        for _ in range(self.settings.readers):
            self._to_tokenize.put(None)
        for _ in range(self.settings.finishers):
            self._to_finish.put(None)
        for thread in self._threads:
            thread.join(JOIN_SECONDS)

    def _release(self, pending: PendingRequest) -> None:
        if pending.future.cancelled():
            self.record("cancelled", pending.request.endpoint, 1)
        with self._changed:
            self._pending.discard(pending)
            self._admission.reserve(pending.reservation, 0)
            self._changed.notify_all()

    def _fail(self, pending: PendingRequest, error: BaseException) -> None:
        if pending.fail(as_api_error(error if isinstance(error, Exception) else RuntimeError(repr(error)))):
            self.record("failed", pending.request.endpoint, 1)

    def _tokenize(self) -> None:
        """First stage: texts to units."""
        while (pending := self._to_tokenize.get()) is not None:
            if pending.settled:
                continue
            started = time.perf_counter()
            pending.stages["wait"] = started - pending.submitted_at
            try:
                tokenized = self.models[pending.request.endpoint].tokenize(pending.request)
                tokens = sum(tokenized.tokens)
                if tokens > self.settings.request_tokens:
                    raise ApiError(
                        400,
                        "too_many_tokens",
                        f"The request has {tokens} tokens; at most {self.settings.request_tokens} are allowed.",
                    )
            except BaseException as error:  # A thread of the engine must not end because of a request.
                self._fail(pending, error)
                continue
            pending.tokenized, pending.ready_at = tokenized, time.perf_counter()
            pending.stages["tokenise"] = pending.ready_at - started
            pending.outputs, pending.missing = [None] * len(tokenized.units), len(tokenized.units)
            self._schedule(pending, tokenized, tokens)

    def _schedule(self, pending: PendingRequest, tokenized: TokenizedRequest, tokens: int) -> None:
        units = [
            WorkUnit(pending, number, int(count), work)
            for number, (work, count) in enumerate(zip(tokenized.units, tokenized.tokens, strict=True))
        ]
        with self._changed:
            if pending.settled:
                return
            self._admission.reserve(pending.reservation, tokens)
            if units:
                line = pending.reservation.line
                self.scheduler.add(line, units, pending.urgent, self._admission.grace_tokens(line))
        if not units:
            pending.started_at = pending.ready_at
            self._to_finish.put(pending)

    def _completed(self, batch: UnitBatch, outputs: Sequence[Any], seconds: float) -> None:
        """Second stage's end: the outputs of a batch go to their requests."""
        tokens = sum(unit.tokens for unit in batch.units)
        complete = []
        with self._changed:
            self.scheduler.record_rate(batch.line, tokens, seconds)
            self._admission.batch_finished(batch.line, tokens, self.scheduler.more)
            for unit, output in zip(batch.units, outputs, strict=True):
                pending: PendingRequest = unit.owner
                self._admission.set_remaining(pending.reservation, max(pending.reservation.left - unit.tokens, 0))
                if isinstance(output, ApiError):
                    continue
                pending.outputs[unit.number] = output
                pending.missing -= 1
                if not pending.missing:
                    complete.append(pending)
        for unit, output in zip(batch.units, outputs, strict=True):
            if isinstance(output, ApiError):
                self._fail(unit.owner, output)
        for pending in complete:
            self._to_finish.put(pending)

    def _finish(self) -> None:
        """Third stage: outputs to results."""
        while (pending := self._to_finish.get()) is not None:
            if pending.settled or pending.tokenized is None:
                continue
            started, endpoint = time.perf_counter(), pending.request.endpoint
            try:
                result = self.models[endpoint].finish(pending.tokenized.context, pending.outputs)
            except BaseException as error:  # A thread of the engine must not end because of a request.
                self._fail(pending, error)
                continue
            ended = time.perf_counter()
            stages = pending.stages | {
                "queue": pending.started_at - pending.ready_at,
                "run": started - pending.started_at,
            }
            result.seconds = stages | {"finish": ended - started, "total": ended - pending.submitted_at}
            for stage, seconds in result.seconds.items():
                self.record(f"{stage}_seconds", endpoint, seconds)
            self.record("dropped_tokens", endpoint, sum(result.dropped))
            pending.succeed(result)


def _lines(models: Mapping[str, ServedModel]) -> dict[str, str]:
    """The line in which the units of each endpoint wait: its own, or that of the first model of its batch group."""
    lines: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, model in models.items():
        lines[name] = name if model.batch_group is None else first.setdefault(id(model.batch_group), name)
    return lines
