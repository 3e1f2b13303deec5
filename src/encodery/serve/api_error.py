"""Errors of the HTTP interface: a status, a stable code, and one JSON envelope for all of them.

{"error": {"message", "type", "param", "code"}} is the shape that OpenAI's clients read. Codes are part of the
interface: the wording of a message may change, a code does not.
"""

from __future__ import annotations

from typing import Any

from encodery.base.errors import EmptyInput, InputError, MissingExtra, UnknownName, UserError

TYPES = {401: "authentication_error", 404: "not_found_error", 408: "timeout_error", 429: "rate_limit_error"}


class ApiError(UserError):
    """`status` of HTTP; `code` for programs; `param`: the field at fault; `retry_after`: seconds, with 429 and 503."""

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.param, self.retry_after = param, retry_after

    @property
    def error_type(self) -> str:
        """The class of errors that the status belongs to, as OpenAI names them."""
        return TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")

    def body(self) -> dict[str, Any]:
        """The envelope."""
        # A message can quote a text of the request, which can hold surrogates that UTF-8 cannot encode.
        message = self.message.encode("utf-8", "replace").decode("utf-8")
        return {"error": {"message": message, "type": self.error_type, "param": self.param, "code": self.code}}

    def fields(self) -> dict[str, Any]:
        """The arguments of the constructor, to be sent to another process as JSON."""
        return {
            "status": self.status,
            "code": self.code,
            "message": self.message,
            "param": self.param,
            "retry_after": self.retry_after,
        }


def as_api_error(error: Exception) -> ApiError:
    """Any exception as an API error: a user's error with its message, a programming error with its type only."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, EmptyInput):
        return ApiError(400, "empty_input", str(error))
    if isinstance(error, InputError):
        code = "input_too_long" if "Choose truncate" in str(error) else "invalid_input"
        return ApiError(400, code, str(error))
    if isinstance(error, UnknownName):
        return ApiError(404, "not_found", str(error))
    if isinstance(error, MissingExtra):
        return ApiError(501, "missing_extra", str(error))
    if isinstance(error, UserError):
        return ApiError(400, "invalid_request", str(error))
    return ApiError(500, "internal_error", f"The server failed at this request ({type(error).__name__}).")
