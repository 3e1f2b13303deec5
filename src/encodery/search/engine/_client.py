"""Requests to a Qdrant server: repeated while the server is at fault, with errors that name it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from encodery.base.errors import ArtifactError, EncoderyError

T = TypeVar("T")
PAUSE = 0.5
"""Seconds before the second attempt, doubled for each one after it."""
BUSY = (408, 429, 500, 502, 503, 504)


class RetryingClient:
    """Calls of a client. `name`: of the server, or of the folder of an in-memory store."""

    def __init__(self, client: Any, name: str, retries: int) -> None:
        self.client, self.name, self.retries = client, name, retries

    def __call__(self, request: Callable[[Any], T]) -> T:
        """Return the result of a request. Every request here may be sent twice, because points have ids. Raises
        `ArtifactError`."""
        for attempt in range(self.retries + 1):
            try:
                return request(self.client)
            except EncoderyError:
                raise
            except Exception as error:
                last = attempt == self.retries
                if last or not _passing(error):
                    tried = f" ({attempt + 1} attempts)" if attempt else ""
                    raise ArtifactError(f"{self.name}: the search engine failed{tried}: {_said(error)}") from error
                time.sleep(PAUSE * 2**attempt)
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close the connection."""
        self.client.close()


def _passing(error: Exception) -> bool:
    """Whether the same request may succeed a moment later: no connection, no time, or a server that is busy."""
    import grpc
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    if isinstance(error, UnexpectedResponse):
        return error.status_code in BUSY
    if isinstance(error, grpc.RpcError):
        return error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    return isinstance(error, ResponseHandlingException | ConnectionError | TimeoutError)


def _said(error: Exception) -> str:
    """An error in one line; a refused key in plain words."""
    status = getattr(error, "status_code", None)
    if status in (401, 403):
        return f"it refuses the API key (HTTP {status}); key_from names the environment variable that holds it."
    return " ".join(str(error).split())[:400] or type(error).__name__
