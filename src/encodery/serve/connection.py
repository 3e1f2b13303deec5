"""Limits of a connection before there is a request and while it is answered; uvicorn has none.

The head of a request must arrive within a time and a size, in however many parts, and be HTTP; a client that accepts no
byte of its response for a time is disconnected. (The body is limited in `http.py`.) A body that is answered before it
has arrived is read to its end, since a connection that is closed with unread data loses its response. A client that
closes its side after a request is answered if that takes at most `HALF_CLOSED_SECONDS`: a client that is gone looks the
same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson

from encodery.base.extras import require
from encodery.serve.api_error import ApiError

HEAD_BYTES = 64 << 10
DISCARDED_BYTES = 256 << 20
"""The maximum that is read of a body whose request has been answered."""
HALF_CLOSED_SECONDS = 2.0
BAD_REQUEST = b"""HTTP/1.1 400 Bad Request\r
content-type: application/json\r
content-length: %d\r
connection: close\r
\r
"""


def timeout_protocol(seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's protocol with a limit of `seconds` for a head to arrive, and for a client to accept any part of its
    response."""
    base: Any = answering_protocol(require("uvicorn.protocols.http.auto", "serve").AutoHTTPProtocol)

    class TimeoutProtocol(base):  # type: ignore[misc]
        """Closes connections that exceed a limit."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._head_bytes, self._discarded_bytes, self._unsent = 0, 0, -1
            self._write_timer: asyncio.TimerHandle | None = None
            self._head_timer: asyncio.TimerHandle | None = self._after(transport.close)

        def data_received(self, data: bytes) -> None:
            was_in_body = self._in_body
            super().data_received(data)
            if (self.cycle is not None and not self.cycle.response_complete) or (was_in_body and not self._in_body):
                # The head is complete, or the body that nobody reads.
                _cancel(self._head_timer)
                self._head_timer, self._head_bytes, self._discarded_bytes = None, 0, 0
                return
            self._head_timer = self._head_timer or self._after(self.transport.close)
            if self._in_body:
                self._discarded_bytes += len(data)
            else:
                self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES or self._discarded_bytes > DISCARDED_BYTES:
                self.transport.close()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._check_progress()

        def resume_writing(self) -> None:
            super().resume_writing()
            _cancel(self._write_timer)
            self._write_timer, self._unsent = None, -1

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            _cancel(self._head_timer)
            _cancel(self._write_timer)

        def _after(self, callback: Callable[[], None]) -> asyncio.TimerHandle:
            timer: asyncio.TimerHandle = self.loop.call_later(seconds, callback)
            return timer

        def _check_progress(self) -> None:
            """Abort unless the client accepted something since the last check."""
            unsent = self.transport.get_write_buffer_size()
            if unsent == self._unsent:
                self.transport.abort()
            else:
                self._unsent, self._write_timer = unsent, self._after(self._check_progress)

    protocol: type[asyncio.Protocol] = TimeoutProtocol
    return protocol


def answering_protocol(base: Any) -> type[asyncio.Protocol]:
    """A protocol of uvicorn that knows whether a body is arriving, and answers half-closed connections and what is not
    HTTP."""

    class AnsweringProtocol(base):  # type: ignore[misc]
        """Closes a half-closed connection after `HALF_CLOSED_SECONDS`."""

        def connection_made(self, transport: Any) -> None:
            self._in_body = False
            self._eof_timer: asyncio.TimerHandle | None = None
            super().connection_made(transport)

        def on_headers_complete(self) -> None:
            self._in_body = True
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._in_body = False
            super().on_message_complete()

        def eof_received(self) -> bool:
            """Whether the connection stays open: if a whole request has arrived and is not answered yet."""
            if self.cycle is None or self.cycle.response_complete or self._in_body:
                return False
            self.cycle.keep_alive = False
            timer: asyncio.TimerHandle = self.loop.call_later(HALF_CLOSED_SECONDS, self.transport.close)
            self._eof_timer = timer
            return True

        def send_400_response(self, msg: str) -> None:
            """Answer what is not HTTP in the envelope of all errors."""
            content = orjson.dumps(ApiError(400, "malformed_http", msg).body())
            self.transport.write(BAD_REQUEST % len(content) + content)
            self.transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            _cancel(self._eof_timer)

    protocol: type[asyncio.Protocol] = AnsweringProtocol
    return protocol


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
