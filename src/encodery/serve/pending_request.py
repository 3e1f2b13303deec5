"""A request on its way through the engine, from admission to its result."""

from __future__ import annotations

import time
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

from encodery.serve.admission import Reservation
from encodery.serve.served_model import InferenceRequest, InferenceResult, TokenizedRequest


@dataclass(eq=False)
class PendingRequest:
    """`future` gets the result, or the error. `urgent`: passes admission and all other requests. `outputs`: of each
    unit, of which `missing` are not computed yet. Times are of `time.perf_counter`; `stages`: seconds by stage."""

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
        """Whether nobody waits for the result any more: it is there, the request failed, or its client went away."""
        return self.future.done()

    def cancel(self) -> None:
        """Withdraw the request: whatever has not been computed is dropped."""
        self.future.cancel()

    def fail(self, error: Exception) -> bool:
        """Settle with an error; false if the request was settled already."""
        try:
            self.future.set_exception(error)
        except InvalidStateError:
            return False
        return True

    def succeed(self, result: InferenceResult) -> bool:
        """Settle with a result; false if the request was settled already."""
        try:
            self.future.set_result(result)
        except InvalidStateError:
            return False
        return True
