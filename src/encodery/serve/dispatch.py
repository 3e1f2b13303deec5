"""Between the routes and the backend: which model answers, the request that the engine gets, the response's headers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from fastapi import Request, Response

from encodery.base.errors import nearest
from encodery.serve.api_error import ApiError
from encodery.serve.backend import Backend
from encodery.serve.http import cancel_on_disconnect
from encodery.serve.served_model import InferenceRequest, InferenceResult

STAGE_HEADERS = {"tokenise": "x-tokenization-time", "queue": "x-queue-time", "run": "x-inference-time"}


class Dispatcher:
    """Sends requests to a backend's models. `max_inputs`: of one request."""

    def __init__(self, backend: Backend, max_inputs: int) -> None:
        self.backend, self.max_inputs = backend, max_inputs

    def select_model(self, name: str | None, operation: str, tasks: Sequence[str] = ()) -> str:
        """The model called `name`, or the first one with the operation (and one of the tasks) if None.

        Raises `ApiError` for a model that does not exist or lacks the operation.
        """
        needed = " or ".join(tasks) or operation
        suitable = [info["id"] for info in self.backend.models_info if _supports(info, operation, tasks)]
        if name is None:
            if not suitable:
                raise ApiError(400, "unsupported_task", f"No model on this server supports '{needed}'.")
            return str(suitable[0])
        known = {info["id"]: info for info in self.backend.models_info}
        if name not in known:
            message = f"There is no model '{name[:200]}'.{nearest(name, known)} Models: {', '.join(known)}."
            raise ApiError(404, "model_not_found", message, "model")
        if name not in suitable:
            supported = ", ".join(_operation_names(known[name]))
            message = f"'{name}' does not support '{needed}'; it supports {supported}."
            raise ApiError(400, "unsupported_task", message, "model")
        return name

    def operation_info(self, model: str, operation: str) -> dict[str, Any]:
        """What a model reports of an operation."""
        infos = (info["operations"][operation] for info in self.backend.models_info if info["id"] == model)
        info: dict[str, Any] = next(infos)
        return info

    async def __call__(
        self,
        request: Request,
        model: str,
        operation: str,
        inputs: dict[str, Any],
        options: dict[str, Any] | None = None,
    ) -> InferenceResult:
        """The backend's result; the request is withdrawn if the client goes away."""
        work = self.backend.infer(InferenceRequest(model, operation, inputs, options or {}))
        result: InferenceResult = await cancel_on_disconnect(request, work)
        return result


def json_response(result: InferenceResult, body: Any, characters: int = 0) -> Response:
    """A response with the times of the stages in milliseconds, the tokens, and the tokens that truncation dropped."""
    headers = {name: f"{1000 * result.seconds.get(stage, 0.0):.3f}" for stage, name in STAGE_HEADERS.items()}
    headers["x-compute-time"] = f"{1000 * result.seconds.get('total', 0.0):.3f}"
    headers["x-compute-tokens"] = str(sum(result.tokens))
    headers["x-compute-characters"] = str(characters)
    headers["x-dropped-tokens"] = str(sum(result.dropped))
    return Response(body if isinstance(body, bytes) else to_json(body), 200, headers, "application/json")


def to_json(body: Any) -> bytes:
    """JSON of tables, lists and arrays; arrays are written without converting their numbers to Python's."""
    return orjson.dumps(body, default=_convert, option=orjson.OPT_SERIALIZE_NUMPY)


def _convert(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value) if not value.flags.c_contiguous else value.tolist()
    raise TypeError(type(value).__name__)


def _supports(info: dict[str, Any], operation: str, tasks: Sequence[str]) -> bool:
    operations = info["operations"]
    return operation in operations and (not tasks or operations[operation].get("task") in tasks)


def _operation_names(info: dict[str, Any]) -> list[str]:
    return [operation.get("task", name) for name, operation in info["operations"].items()]
