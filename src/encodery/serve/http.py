"""What every request passes before its route: key, size, time, content type and strict JSON; one envelope for errors.

The body is counted before it is parsed. JSON is read by orjson, which refuses lone surrogates, NaN and nesting beyond
its limit; of a key given twice the last value counts.
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

from encodery.base.hosts import names_this_machine
from encodery.serve.api_error import ApiError
from encodery.serve.schemas import COHERE_DIALECT, TEI_DIALECT, UNKNOWN_FIELD
from encodery.serve.served_model import CHARACTERS_PER_TOKEN
from encodery.serve.server_metrics import ServerMetrics

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
OPEN_PATHS = ("/health/live", "/health/ready", "/health", "/", "/docs", "/page.css", "/page.js")
"""Paths that need no key: they show nothing of the models, and load balancers that ask for health have no key."""
TYPE_NAME = re.compile(r"(str|int|float|bool|[a-z]+\[.*|[A-Z]\w*)$")
"""A part of the location of a validation error that names a type of a union and not a field."""
OPERATIONS = {
    **dict.fromkeys(("/v1/embeddings", "/embeddings", "/embed", "/similarity"), "embed"),
    **dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank", "/predict", "/tag", "/answer"), "predict"),
    "/embed_sparse": "sparse",
    "/fill": "fill",
    "/search": "search",
}
"""The operation of a path, if it is known before the body is read."""
OverloadCheck = Callable[[str, int], ApiError | None]
"""From an operation and a number of tokens to the error that any such request would get now; None if it is admitted."""


@dataclass(frozen=True, kw_only=True)
class HttpSettings:
    """`keys`: any of them gives access; none: no key is needed. `body_bytes`: of a request; `body_seconds`: for a body
    to arrive, for a head to arrive, and for a client to accept any part of its response; `drain_seconds`: that a
    stopping server gives to the requests it has accepted; `hosts`: the names that the Host header may have besides
    localhost, IP addresses and the name of this machine (None: any); `token_ids`: whether token ids are accepted in
    place of texts."""

    keys: tuple[str, ...] = ()
    body_bytes: int = 16 << 20
    body_seconds: float = 30.0
    drain_seconds: float = 30.0
    hosts: tuple[str, ...] | None = None
    token_ids: bool = False


def error_response(error: ApiError) -> Response:
    """An error as a response."""
    headers = {"x-encodery-code": error.code}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(orjson.dumps(error.body()), error.status, headers, "application/json")


class _StrictRequest(Request):
    """A request whose body is limited in size and time, and strict JSON."""

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
                raise ApiError(499, "client_gone", "The client closed the connection.") from None
            except TimeoutError:
                message = f"The body did not arrive within {settings.body_seconds:g} s."
                raise ApiError(408, "body_timeout", message) from None
            self._body = b"".join(chunks)
        return self._body

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            try:
                self._json = orjson.loads(await self.body())
            except orjson.JSONDecodeError as error:
                raise ApiError(400, "malformed_json", f"The body is not JSON: {error}.") from error
        return self._json


class JsonRoute(APIRoute):
    """A route whose requests have a limited body of strict JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See FastAPI."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            strict = _StrictRequest(request.scope, request.receive)
            if request.method == "POST":
                content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
                if content_type != "application/json":
                    message = f"The Content-Type is '{content_type[:80]}'; it must be application/json."
                    raise ApiError(415, "unsupported_media_type", message)
                await strict.json()  # Here, since FastAPI turns any error while it reads the body into a 400.
            return await handler(strict)

        return handle


def body_too_large(size: int, limit: int) -> ApiError:
    """The error for a body of `size` bytes."""
    return ApiError(413, "body_too_large", f"The body has {size} bytes or more; at most {limit} are allowed.")


class AuthMiddleware:
    """The outermost layer: keys, declared sizes, metrics, and the header with the total time. While too much waits, a
    request is refused here with its body unread, which costs a small part of reading it."""

    def __init__(
        self, app: Any, settings: HttpSettings, metrics: ServerMetrics, overload: OverloadCheck | None = None
    ) -> None:
        self.app, self.settings, self.metrics, self.overload = app, settings, metrics, overload
        self._keys = [key.encode() for key in settings.keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status, code = time.perf_counter(), 500, ""
        if scope["path"].endswith("/"):
            scope["path"] = scope["path"].rstrip("/") or "/"

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            nonlocal status, code
            if message["type"] == "http.response.start":
                headers = message.setdefault("headers", [])
                status = message["status"]
                code = next((value.decode() for key, value in headers if key == b"x-encodery-code"), "")
                headers.append((b"x-total-time", b"%.3f" % (1000 * (time.perf_counter() - started))))
            await send(message)

        try:
            error = self._error(scope)
            if error is not None:
                await error_response(error)(scope, receive, send_with_headers)
            else:
                await self.app(scope, receive, send_with_headers)
        finally:
            route = getattr(scope.get("route"), "path", "")
            self.metrics.record_response(route, status, code)

    def _error(self, scope: Scope) -> ApiError | None:
        """The error of a request by its head, None if it may pass."""
        headers = dict(scope["headers"])
        for name in (b"authorization", b"host"):
            if sum(name == other for other, _ in scope["headers"]) > 1:
                return ApiError(400, "invalid_request", f"The header {name.decode().title()} is there more than once.")
        host = headers.get(b"host", b"").decode("latin-1")
        if host and self.settings.hosts is not None and not names_this_machine(host, self.settings.hosts):
            message = f"The Host is '{host[:100]}', and this server is not reached by that name; see --allow-host."
            return ApiError(403, "host_not_allowed", message)
        if self._keys and scope["path"] not in OPEN_PATHS and not self._authorised(headers.get(b"authorization", b"")):
            return ApiError(401, "invalid_api_key", "A key is needed: send the header Authorization: Bearer <key>.")
        length = headers.get(b"content-length", b"0")
        size = int(length[:20]) if length.isdigit() else 0
        if size > self.settings.body_bytes:
            return body_too_large(size, self.settings.body_bytes)
        operation = OPERATIONS.get(scope["path"]) if size and scope["method"] == "POST" else None
        if operation is None or self.overload is None:
            return None
        return self.overload(operation, size // CHARACTERS_PER_TOKEN)

    def _authorised(self, header: bytes) -> bool:
        scheme, _, key = header.partition(b" ")
        # Every key is compared, each in constant time, so that the time says nothing about the keys.
        matches = [hmac.compare_digest(key.strip(), known) for known in self._keys]
        return any(matches) and scheme.lower() == b"bearer"


def validation_error(error: RequestValidationError) -> ApiError:
    """What the schema found wrong in a body, with the field."""
    errors = error.errors()
    first: dict[str, Any] = errors[0] if errors else {"loc": (), "msg": "cannot be read", "type": ""}
    location = [
        str(part)
        for part in first["loc"]
        if part not in ("body", TEI_DIALECT, COHERE_DIALECT) and not TYPE_NAME.match(str(part))
    ]
    field = location[0] if location else None
    if first["type"] == "missing" and not location:
        return ApiError(400, "malformed_json", "The body is empty; a JSON object is needed.")
    if first["type"] == UNKNOWN_FIELD:
        location.append(first["ctx"]["field"])
        message = f"'{'.'.join(location)}' is not a field of this request.{first['ctx']['hint']}"
        return ApiError(400, "unknown_parameter", message, location[0])
    code = "missing_parameter" if first["type"] == "missing" else "invalid_parameter"
    messages = "; ".join(dict.fromkeys(str(one["msg"]) for one in errors[:6]))
    return ApiError(400, code, f"{'.'.join(location) or 'The body'}: {messages}.", field)


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, Any]) -> Any:
    """The result of `work`, which is cancelled if the client goes away."""
    task, disconnect = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, disconnect), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(499, "client_gone", "The client closed the connection.")
        return task.result()
    finally:
        for future in (task, disconnect):
            future.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def check_texts(inputs: str | Sequence[str], name: str, max_inputs: int, allow_empty: bool = False) -> list[str]:
    """The inputs as a list of texts. Raises `ApiError` for no text, too many, and an empty one unless allowed."""
    texts = [inputs] if isinstance(inputs, str) else list(inputs)
    check_count(len(texts), name, max_inputs)
    for index, text in enumerate(texts):
        if not text and not allow_empty:
            where = name if isinstance(inputs, str) else f"{name}[{index}]"
            raise ApiError(400, "empty_input", f"{where} is empty.", name)
    return texts


def check_count(count: int, name: str, max_inputs: int) -> None:
    """Raises `ApiError` for no input or too many."""
    if not count:
        raise ApiError(400, "empty_input", f"{name} is an empty list.", name)
    if count > max_inputs:
        raise ApiError(400, "too_many_inputs", f"{name} has {count} inputs; at most {max_inputs} are allowed.", name)
