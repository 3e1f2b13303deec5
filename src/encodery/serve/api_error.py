"""What the server says no with: a status, a stable code, and one envelope for all of them.

{"error": {"message", "type", "param", "code"}}: the shape OpenAI's clients read. Codes are part of the interface: a
message may be reworded, a code may not.
"""

from __future__ import annotations

from typing import Any

from encodery.base.errors import EmptyInput, InputError, MissingExtra, UnknownName, UserError

TYPES = {401: "authentication_error", 404: "not_found_error", 408: "timeout_error", 429: "rate_limit_error"}


class ApiError(UserError):
    """`status` of HTTP, `code` for programs, `param`: the field at fault; `retry_after`: seconds, with 429 and 503."""

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.param, self.retry_after = param, retry_after

    @property
    def error_type(self) -> str:
        """The error's type: whose fault it is, coarsely."""
        return TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")

    def body(self) -> dict[str, Any]:
        """The envelope."""
        # A message may quote a text of the request; what UTF-8 cannot hold must not break the answer that says so.
        message = self.message.encode("utf-8", "replace").decode("utf-8")
        return {"error": {"message": message, "type": self.error_type, "param": self.param, "code": self.code}}

    def fields(self) -> dict[str, Any]:
        """All of it as JSON, to be sent between processes."""
        return {
            "status": self.status,
            "code": self.code,
            "message": self.message,
            "param": self.param,
            "retry_after": self.retry_after,
        }


def as_api_error(error: Exception) -> ApiError:
    """Any exception as a refusal: users' errors are told, ours are not, beyond their name."""
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
