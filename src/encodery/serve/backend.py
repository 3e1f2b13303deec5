"""What the HTTP side asks of the engine, wherever that runs; and the engine in this process's own threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, Protocol

from encodery.serve.engine import Engine
from encodery.serve.lane import Answer, Asked
from encodery.serve.refusal import Refusal

BEAT = 5.0  # seconds that the smallest request may take before the engine counts as dead


class Backend(Protocol):
    """Answers requests. `facts`: of each model, see `models.py`."""

    facts: Sequence[dict[str, Any]]

    async def ask(self, asked: Asked) -> Answer:
        """The answer. Raises `Refusal`; a caller that is cancelled withdraws the request."""

    async def beat(self) -> float:
        """Seconds that a smallest request of each model took, all through the engine. Raises `Refusal` (503)."""

    async def drain(self, seconds: float) -> bool:
        """Take nothing more and wait for what was taken; whether all of it was answered in time."""

    def load(self) -> dict[str, int]:
        """Requests and tokens on their way."""


class Local:
    """An engine in threads of this process."""

    def __init__(self, engine: Engine, facts: Sequence[dict[str, Any]], beats: Sequence[Asked]) -> None:
        self.engine, self.facts, self.beats = engine, facts, beats

    async def ask(self, asked: Asked, urgent: bool = False) -> Answer:
        """See `Backend`; `urgent`: before all others."""
        ticket = self.engine.submit(asked, urgent)
        return await asyncio.wrap_future(ticket.future)  # Cancelling the wrapper cancels the ticket.

    async def beat(self) -> float:
        """See `Backend`."""
        return await beaten((self.ask(asked, urgent=True) for asked in self.beats), "The engine did not answer")

    async def drain(self, seconds: float) -> bool:
        """See `Backend`."""
        return await asyncio.to_thread(self.engine.drain, seconds)

    def load(self) -> dict[str, int]:
        """See `Backend`."""
        return {"requests": self.engine.requests, "tokens": self.engine.tokens}


async def beaten(asked: Iterable[Awaitable[Answer]], otherwise: str) -> float:
    """Seconds until the smallest requests were answered. Raises `Refusal` (503) that says `otherwise`."""
    begun = time.perf_counter()
    try:
        async with asyncio.timeout(BEAT):
            await asyncio.gather(*asked)
    except TimeoutError:
        raise Refusal(503, "engine_stuck", f"{otherwise} within {BEAT:g} s.", None, 5) from None
    return time.perf_counter() - begun
