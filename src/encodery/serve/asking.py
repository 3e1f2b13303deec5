"""Between the routes and the engine: which model answers, the request as the engine takes it, the answer's headers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from fastapi import Request, Response

from encodery.base.errors import nearest
from encodery.serve.backend import Backend
from encodery.serve.http import while_there
from encodery.serve.lane import Answer, Asked
from encodery.serve.refusal import Refusal

STAGES = {"tokenise": "x-tokenization-time", "queue": "x-queue-time", "run": "x-inference-time"}


class Asking:
    """The models behind a backend. `most`: inputs of a request."""

    def __init__(self, backend: Backend, most: int) -> None:
        self.backend, self.most = backend, most

    def model(self, name: str | None, what: str, task: Sequence[str] = ()) -> str:
        """The model of that name, or the first that can do `what` (with one of the tasks). Raises `Refusal` for one
        that is not there or cannot."""
        able = [facts["id"] for facts in self.backend.facts if _can(facts, what, task)]
        if name is None:
            if not able:
                raise Refusal(400, "unsupported_task", f"No model here can do this ({' or '.join(task) or what}).")
            return str(able[0])
        known = {facts["id"]: facts for facts in self.backend.facts}
        if name not in known:
            raise Refusal(
                404,
                "model_not_found",
                f"There is no model '{name[:200]}'.{nearest(name, known)} There are {', '.join(known)}.",
                "model",
            )
        if name not in able:
            can = ", ".join(_told(known[name]))
            raise Refusal(
                400,
                "unsupported_task",
                f"'{name}' cannot do this ({' or '.join(task) or what}); it can {can}.",
                "model",
            )
        return name

    def facts(self, model: str, what: str) -> dict[str, Any]:
        """What a model says of what it can do."""
        found: dict[str, Any] = next(facts["can"][what] for facts in self.backend.facts if facts["id"] == model)
        return found

    async def __call__(
        self, request: Request, model: str, what: str, inputs: dict[str, Any], options: dict[str, Any] | None = None
    ) -> Answer:
        """The engine's answer; withdrawn when the client goes away."""
        found: Answer = await while_there(request, self.backend.ask(Asked(model, what, inputs, options or {})))
        return found


def told(answer: Answer, body: Any, characters: int = 0) -> Response:
    """A body with what the answer took: milliseconds by stage, tokens, and what truncation dropped."""
    headers = {name: f"{1000 * answer.seconds.get(stage, 0.0):.3f}" for stage, name in STAGES.items()}
    headers["x-compute-time"] = f"{1000 * answer.seconds.get('total', 0.0):.3f}"
    headers["x-compute-tokens"] = str(sum(answer.tokens))
    headers["x-compute-characters"] = str(characters)
    headers["x-dropped-tokens"] = str(sum(answer.dropped))
    return Response(body if isinstance(body, bytes) else json(body), 200, headers, "application/json")


def json(body: Any) -> bytes:
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
