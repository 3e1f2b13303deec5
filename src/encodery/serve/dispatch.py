"""Between the routes and the engine: which model answers, the request as the engine takes it, the answer's headers."""

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
    """The models behind a backend. `most`: inputs of a request."""

    def __init__(self, backend: Backend, most: int) -> None:
        self.backend, self.max_inputs = backend, most

    def select_model(self, name: str | None, what: str, task: Sequence[str] = ()) -> str:
        """The model of that name, or the first that can do `what` (with one of the tasks). Raises `Refusal` for one
        that is not there or cannot."""
        able = [facts["id"] for facts in self.backend.models_info if _can(facts, what, task)]
        if name is None:
            if not able:
                raise ApiError(400, "unsupported_task", f"No model here can do this ({' or '.join(task) or what}).")
            return str(able[0])
        known = {facts["id"]: facts for facts in self.backend.models_info}
        if name not in known:
            raise ApiError(
                404,
                "model_not_found",
                f"There is no model '{name[:200]}'.{nearest(name, known)} There are {', '.join(known)}.",
                "model",
            )
        if name not in able:
            can = ", ".join(_told(known[name]))
            raise ApiError(
                400,
                "unsupported_task",
                f"'{name}' cannot do this ({' or '.join(task) or what}); it can {can}.",
                "model",
            )
        return name

    def operation_info(self, model: str, what: str) -> dict[str, Any]:
        """What a model says of what it can do."""
        found: dict[str, Any] = next(facts["can"][what] for facts in self.backend.models_info if facts["id"] == model)
        return found

    async def __call__(
        self, request: Request, model: str, what: str, inputs: dict[str, Any], options: dict[str, Any] | None = None
    ) -> InferenceResult:
        """The engine's answer; withdrawn when the client goes away."""
        found: InferenceResult = await cancel_on_disconnect(
            request, self.backend.infer(InferenceRequest(model, what, inputs, options or {}))
        )
        return found


def json_response(answer: InferenceResult, body: Any, characters: int = 0) -> Response:
    """A body with what the answer took: milliseconds by stage, tokens, and what truncation dropped."""
    headers = {name: f"{1000 * answer.seconds.get(stage, 0.0):.3f}" for stage, name in STAGE_HEADERS.items()}
    headers["x-compute-time"] = f"{1000 * answer.seconds.get('total', 0.0):.3f}"
    headers["x-compute-tokens"] = str(sum(answer.tokens))
    headers["x-compute-characters"] = str(characters)
    headers["x-dropped-tokens"] = str(sum(answer.dropped))
    return Response(body if isinstance(body, bytes) else to_json(body), 200, headers, "application/json")


def to_json(body: Any) -> bytes:
    """JSON of tables, lists and arrays, which are written without a detour over Python's numbers."""
    return orjson.dumps(body, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value) if not value.flags.c_contiguous else value.tolist()
    raise TypeError(type(value).__name__)


def _can(facts: dict[str, Any], what: str, task: Sequence[str]) -> bool:
    return what in facts["can"] and (not task or facts["can"][what].get("task") in task)


def _told(facts: dict[str, Any]) -> list[str]:
    return [can.get("task", what) for what, can in facts["can"].items()]
