"""Limits of a connection: a head that does not arrive, and bytes that are not HTTP."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

uvicorn = pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from encodery.serve.connection import HEAD_BYTES, timeout_protocol  # noqa: E402

SECONDS = 0.2


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def exchange(*parts: bytes, pause: float = 0.0) -> bytes:
    """What a server sends until it closes the connection, if a client sends these parts; b"open" if it does not."""

    async def scenario() -> bytes:
        config = uvicorn.Config(app, http=timeout_protocol(SECONDS), lifespan="off", log_level="critical")
        config.load()
        state = uvicorn.server.ServerState()

        def protocol() -> Any:
            return config.http_protocol_class(config=config, server_state=state, app_state={})

        server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(pause)
            return await asyncio.wait_for(reader.read(), 5 * SECONDS)
        except TimeoutError:
            return b"open"
        except ConnectionError:
            return b""
        finally:
            writer.close()
            server.close()

    return asyncio.run(scenario())


@pytest.mark.parametrize("parts", [(), (b"GET / HTTP/1.1\r\n",), (b"GET / HTT", b"P/1.1\r\nHo", b"st: a\r\n")])
def test_a_head_that_does_not_end_closes_the_connection(parts: tuple[bytes, ...]) -> None:
    assert exchange(*parts, pause=SECONDS / 4) == b""


def test_a_head_that_is_too_large_closes_the_connection() -> None:
    lines = b"".join(b"x-%d: %s\r\n" % (number, b"a" * 1000) for number in range(HEAD_BYTES // 1000 + 2))
    assert b"204" not in exchange(b"GET / HTTP/1.1\r\n", lines)


def test_what_is_not_http_gets_the_envelope() -> None:
    head, _, body = exchange(b"\x16\x03\x01 hello\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["error"]["code"] == "malformed_http"


def test_an_answered_connection_stays_open() -> None:
    assert exchange(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") == b"open"
