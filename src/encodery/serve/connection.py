"""What a connection may do before there is a request, and while it is answered: uvicorn bounds neither.

A head must come within a time and a size, however little by little, and be HTTP; a client that takes nothing of its
answer for a time is let go. (The body is bounded in `http.py`.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson

from encodery.base.extras import require
from encodery.serve.api_error import ApiError

HEAD_BYTES = 64 << 10
NO_HTTP = b"""HTTP/1.1 400 Bad Request\r
content-type: application/json\r
content-length: %d\r
connection: close\r
\r
"""


def patient(seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's protocol, with `seconds` for a head to come, and for a client to take something of its answer."""
    base: Any = require("uvicorn.protocols.http.auto", "serve").AutoHTTPProtocol

    class Patient(base):  # type: ignore[misc]
        """Closes what lasts too long."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._head_bytes, self._left = 0, -1
            self._stalled: asyncio.TimerHandle | None = None
            self._late: asyncio.TimerHandle | None = self._after(transport.close)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:  # A head has come whole.
                _stop(self._late)
                self._late, self._head_bytes = None, 0
                return
            self._late = self._late or self._after(self.transport.close)
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self.transport.close()

        def send_400_response(self, msg: str) -> None:
            """What is no HTTP is told in the envelope, too."""
            content = orjson.dumps(ApiError(400, "malformed_http", msg).body())
            self.transport.write(NO_HTTP % len(content) + content)
            self.transport.close()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._look()

        def resume_writing(self) -> None:
            super().resume_writing()
            _stop(self._stalled)
            self._stalled, self._left = None, -1

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            _stop(self._late)
            _stop(self._stalled)

        def _after(self, then: Callable[[], None]) -> asyncio.TimerHandle:
            found: asyncio.TimerHandle = self.loop.call_later(seconds, then)
            return found

        def _look(self) -> None:
            """Whether the client took something since the last look."""
            left = self.transport.get_write_buffer_size()
            if left == self._left:
                self.transport.abort()
            else:
                self._left, self._stalled = left, self._after(self._look)

    found: type[asyncio.Protocol] = Patient
    return found


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
