"""The backend of the HTTP side: where requests are computed. `LocalBackend` is an engine in this process's threads."""

from __future__ import annotations

import abc
import asyncio
import time
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any

from encodery.serve.api_error import ApiError
from encodery.serve.engine import ServingEngine
from encodery.serve.served_model import InferenceRequest, InferenceResult

PROBE_SECONDS = 5.0  # That a smallest request may take before the engine counts as dead.


class Backend(abc.ABC):
    """Computes requests. `models_info`: of each model, see `models.py`."""

    models_info: Sequence[dict[str, Any]]

    @abc.abstractmethod
    async def infer(self, request: InferenceRequest, urgent: bool = False) -> InferenceResult:
        """The result; `urgent`: before all other requests. Raises `ApiError`; a caller that is cancelled withdraws the
        request."""

    @abc.abstractmethod
    async def probe(self) -> float:
        """Seconds that a smallest request of each model took through all stages. Raises `ApiError` (503)."""

    @abc.abstractmethod
    async def drain(self, seconds: float) -> bool:
        """Accept nothing more and wait for the pending requests; whether all of them were answered in time."""

    @abc.abstractmethod
    def load(self) -> dict[str, int]:
        """The numbers of pending requests and of their tokens."""


class LocalBackend(Backend):
    """An engine in threads of this process."""

    def __init__(
        self,
        engine: ServingEngine,
        models_info: Sequence[dict[str, Any]],
        health_probes: Sequence[InferenceRequest],
    ) -> None:
        self.engine, self.models_info, self.health_probes = engine, models_info, health_probes

    async def infer(self, request: InferenceRequest, urgent: bool = False) -> InferenceResult:
        """See `Backend`."""
        pending = self.engine.submit(request, urgent)
        return await asyncio.wrap_future(pending.future)  # Cancelling the wrapper cancels the pending request.

    async def probe(self) -> float:
        """See `Backend`."""
        results = (self.infer(request, urgent=True) for request in self.health_probes)
        return await run_probes(results, "The engine did not answer")

    async def drain(self, seconds: float) -> bool:
        """See `Backend`."""
        return await asyncio.to_thread(self.engine.drain, seconds)

    def load(self) -> dict[str, int]:
        """See `Backend`."""
        return {"requests": self.engine.requests, "tokens": self.engine.tokens}


async def run_probes(results: Iterable[Awaitable[InferenceResult]], failure: str) -> float:
    """Seconds until all results are there. Raises `ApiError` (503) with the message `failure` if it takes too long."""
    started = time.perf_counter()
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            await asyncio.gather(*results)
    except TimeoutError:
        raise ApiError(503, "engine_stuck", f"{failure} within {PROBE_SECONDS:g} s.", None, 5) from None
    return time.perf_counter() - started
