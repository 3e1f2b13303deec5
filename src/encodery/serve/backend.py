"""What the HTTP side asks of the engine, wherever that runs; and the engine in this process's own threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, Protocol

from encodery.serve.api_error import ApiError
from encodery.serve.engine import ServingEngine
from encodery.serve.served_model import InferenceRequest, InferenceResult

PROBE_SECONDS = 5.0  # seconds that the smallest request may take before the engine counts as dead


class Backend(Protocol):
    """Answers requests. `facts`: of each model, see `models.py`."""

    models_info: Sequence[dict[str, Any]]

    async def infer(self, request: InferenceRequest) -> InferenceResult:
        """The answer. Raises `Refusal`; a caller that is cancelled withdraws the request."""

    async def probe(self) -> float:
        """Seconds that a smallest request of each model took, all through the engine. Raises `Refusal` (503)."""

    async def drain(self, seconds: float) -> bool:
        """Take nothing more and wait for what was taken; whether all of it was answered in time."""

    def load(self) -> dict[str, int]:
        """Requests and tokens on their way."""


class LocalBackend:
    """An engine in threads of this process."""

    def __init__(
        self, engine: ServingEngine, facts: Sequence[dict[str, Any]], beats: Sequence[InferenceRequest]
    ) -> None:
        self.engine, self.models_info, self.health_probes = engine, facts, beats

    async def infer(self, request: InferenceRequest, urgent: bool = False) -> InferenceResult:
        """See `Backend`; `urgent`: before all others."""
        ticket = self.engine.submit(request, urgent)
        return await asyncio.wrap_future(ticket.future)  # Cancelling the wrapper cancels the ticket.

    async def probe(self) -> float:
        """See `Backend`."""
        return await run_probes(
            (self.infer(asked, urgent=True) for asked in self.health_probes), "The engine did not answer"
        )

    async def drain(self, seconds: float) -> bool:
        """See `Backend`."""
        return await asyncio.to_thread(self.engine.drain, seconds)

    def load(self) -> dict[str, int]:
        """See `Backend`."""
        return {"requests": self.engine.requests, "tokens": self.engine.tokens}


async def run_probes(asked: Iterable[Awaitable[InferenceResult]], otherwise: str) -> float:
    """Seconds until the smallest requests were answered. Raises `Refusal` (503) that says `otherwise`."""
    begun = time.perf_counter()
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            await asyncio.gather(*asked)
    except TimeoutError:
        raise ApiError(503, "engine_stuck", f"{otherwise} within {PROBE_SECONDS:g} s.", None, 5) from None
    return time.perf_counter() - begun
