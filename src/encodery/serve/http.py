"""What every request passes: key, size, time, content type and strict JSON before it is looked at; one envelope after.

The body is counted before it is parsed. JSON is read by orjson: it refuses what is no Unicode (lone surrogates), NaN,
and nesting beyond its limit; of a key given twice the last counts.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from encodery.serve.api_error import ApiError
from encodery.serve.schemas import COHERE_DIALECT, TEI_DIALECT
from encodery.serve.served_model import CHARACTERS_PER_TOKEN
from encodery.serve.server_metrics import ServerMetrics

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
OPEN = ("/health/live", "/health/ready", "/health", "/", "/docs", "/page.css", "/page.js")
"""Paths that need no key: they tell nothing of the models, and those that ask for health have none."""
KIND = re.compile(r"(str|int|float|bool|[a-z]+\[.*|[A-Z]\w*)$")
"""A part of the place of an error that names a kind of value and no field."""
OPERATIONS = {
    **dict.fromkeys(("/v1/embeddings", "/embeddings", "/embed", "/similarity"), "embed"),
    **dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank", "/predict", "/tag", "/answer"), "predict"),
    "/embed_sparse": "sparse",
    "/fill": "fill",
    "/search": "search",
}
"""What the engine does for a path, where that is known before the body is read."""
OverloadCheck = Callable[[str, int], ApiError | None]
"""Why any request for something, of at most so many tokens, would be refused now; None where one may be let in."""


@dataclass(frozen=True, kw_only=True)
class HttpSettings:
    """`keys`: any of them opens; none: open to all. `body_bytes` of a request, `body_seconds` it may take to come, its
    head likewise, and a client to take something of its answer; `drain_seconds` that a stopping server gives to what it
    has accepted."""

    keys: tuple[str, ...] = ()
    body_bytes: int = 16 << 20
    body_seconds: float = 30.0
    drain_seconds: float = 30.0


def error_response(refusal: ApiError) -> Response:
    """A refusal as a response."""
    headers = {"x-encodery-code": refusal.code}
    if refusal.retry_after is not None:
        headers["Retry-After"] = str(refusal.retry_after)
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(orjson.dumps(refusal.body()), refusal.status, headers, "application/json")


class _Body(Request):
    """A request whose body is bounded in size and time, and strict JSON."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            settings: HttpSettings = self.app.state.settings
            chunks, size = [], 0
            try:
                async with asyncio.timeout(settings.body_seconds):
                    async for chunk in self.stream():
                        size += len(chunk)
                        if size > settings.body_bytes:
                            raise body_too_large(size, settings.body_bytes)
                        chunks.append(chunk)
            except ClientDisconnect:
                raise ApiError(499, "client_gone", "The client went away.") from None
            except TimeoutError:
                raise ApiError(
                    408, "body_timeout", f"The body did not come within {settings.body_seconds:g} s."
                ) from None
            self._body = b"".join(chunks)
        return self._body

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            try:
                self._json = orjson.loads(await self.body())
            except orjson.JSONDecodeError as error:
                raise ApiError(400, "malformed_json", f"The body is no JSON: {error}.") from error
        return self._json


class JsonRoute(APIRoute):
    """A route whose requests are read so."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See FastAPI."""
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            read = _Body(request.scope, request.receive)
            if request.method == "POST":
                kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
                if kind != "application/json":
                    raise ApiError(
                        415, "unsupported_media_type", f"Content-Type is '{kind[:80]}'; it must be application/json."
                    )
                await read.json()  # Here, since FastAPI would make a plain 400 of any error while it reads.
            return await inner(read)

        return handle


def body_too_large(size: int, limit: int) -> ApiError:
    """Of a body."""
    return ApiError(413, "body_too_large", f"The body has {size} bytes or more, {limit} are allowed.")


class AuthMiddleware:
    """The outermost layer: keys, sizes that are declared, counting, and headers on what is answered. While too much
    waits a request is refused here, its body unread: that costs a small part of reading it."""

    def __init__(
        self, app: Any, settings: HttpSettings, gauges: ServerMetrics, full: OverloadCheck | None = None
    ) -> None:
        self.app, self.settings, self.gauges, self.full = app, settings, gauges, full
        self._keys = [key.encode() for key in settings.keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status, code = time.perf_counter(), 500, ""

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal status, code
            if message["type"] == "http.response.start":
                headers = message.setdefault("headers", [])
                status = message["status"]
                code = next((v.decode() for k, v in headers if k == b"x-encodery-code"), "")
                headers.append((b"x-total-time", b"%.3f" % (1000 * (time.perf_counter() - begun))))
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                await error_response(refusal)(scope, receive, sending)
            else:
                await self.app(scope, receive, sending)
        finally:
            route = getattr(scope.get("route"), "path", "")
            self.gauges.record_response(route, status, code)

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = {name: value for name, value in scope["headers"] if name in (b"authorization", b"content-length")}
        if self._keys and scope["path"] not in OPEN and not self._known(headers.get(b"authorization", b"")):
            return ApiError(401, "invalid_api_key", "A key is needed: Authorization: Bearer <key>.")
        length = headers.get(b"content-length", b"0")
        size = int(length[:20]) if length.isdigit() else 0
        if size > self.settings.body_bytes:
            return body_too_large(size, self.settings.body_bytes)
        asked = OPERATIONS.get(scope["path"]) if size and scope["method"] == "POST" else None
        return None if asked is None or self.full is None else self.full(asked, size // CHARACTERS_PER_TOKEN)

    def _known(self, header: bytes) -> bool:
        scheme, _, given = header.partition(b" ")
        # Every key is compared, each in constant time: how long it takes tells nothing of them.
        found = [hmac.compare_digest(given.strip(), key) for key in self._keys]
        return any(found) and scheme.lower() == b"bearer"


def validation_error(error: RequestValidationError) -> ApiError:
    """What the schema found wrong, naming the field."""
    found = error.errors()
    first = found[0] if found else {"loc": (), "msg": "cannot be read", "type": ""}
    place = [
        str(part)
        for part in first["loc"]
        if part not in ("body", TEI_DIALECT, COHERE_DIALECT) and not KIND.match(str(part))
    ]
    field = place[0] if place else None
    if first["type"] == "missing" and not place:
        return ApiError(400, "malformed_json", "The body is empty; a JSON object is needed.")
    if first["type"] == "extra_forbidden":
        return ApiError(400, "unknown_parameter", f"'{'.'.join(place)}' is no field of this request.", field)
    code = "missing_parameter" if first["type"] == "missing" else "invalid_parameter"
    said = "; ".join(dict.fromkeys(str(one["msg"]) for one in found[:6]))
    return ApiError(400, code, f"{'.'.join(place) or 'The body'}: {said}.", field)


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, Any]) -> Any:
    """What `work` gives; it is cancelled when the client goes away."""
    task, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(499, "client_gone", "The client went away.")
        return task.result()
    finally:
        for one in (task, leaving):
            one.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def check_texts(given: str | Sequence[str], name: str, most: int, empty: bool = False) -> list[str]:
    """A list of texts, checked: not empty, not too many, none of them empty unless `empty`. Raises `Refusal`."""
    texts = [given] if isinstance(given, str) else list(given)
    check_count(len(texts), name, most)
    for number, text in enumerate(texts):
        if not text and not empty:
            where = name if isinstance(given, str) else f"{name}[{number}]"
            raise ApiError(400, "empty_input", f"{where} is empty.", name)
    return texts


def check_count(count: int, name: str, most: int) -> None:
    """Raises `Refusal` for no input or too many."""
    if not count:
        raise ApiError(400, "empty_input", f"{name} is an empty list.", name)
    if count > most:
        raise ApiError(400, "too_many_inputs", f"{name} has {count} inputs, {most} are allowed.", name)
