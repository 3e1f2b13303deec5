"""`/v1/heads`: vectors, labels and tags of the same texts by one request, each as its own route gives them.

Heads that stand on one encoder are asked together, by `trunk.py`: each text goes through it once. Those on another one
are asked beside them, and `encoders` of the answer says how many there were.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

from encodery.serve import schemas
from encodery.serve.api_error import ApiError
from encodery.serve.dispatch import Dispatcher, json_response
from encodery.serve.http import JsonRoute, check_texts
from encodery.serve.multi_head import OPERATION
from encodery.serve.routes import CLASSES, TAGS, dispatcher_of, labels, spans, token_vectors, types_of
from encodery.serve.served_model import InferenceResult

ROUTES: dict[str, tuple[str, tuple[str, ...]]] = {
    "embed": ("embed", ()),
    "embed_all": ("states", ()),
    "predict": ("predict", CLASSES),
    "tag": ("predict", TAGS),
}
"""Route → the lane that answers it, and of which tasks."""
Head = schemas.EmbedHead | schemas.StatesHead | schemas.PredictHead | schemas.TagHead
router = APIRouter(route_class=JsonRoute, responses=schemas.ERRORS)


@router.post("/v1/heads", tags=["encodery"])
async def heads(request: Request, body: schemas.HeadsBody) -> Response:
    """{"heads": {name: what its route gives, ...}, "models", "encoders", "usage"}, by the names of the request."""
    ask = dispatcher_of(request)
    texts = check_texts(body.input, "input", ask.max_inputs)
    models, groups = {}, dict[str, dict[str, Any]]()
    for name, head in body.heads.items():
        models[name], wanted = _wanted(name, head, ask, body.truncate)
        groups.setdefault(_encoder(ask, models[name], ROUTES[head.route][0]), {})[name] = wanted
    tasks = [
        asyncio.ensure_future(ask(request, encoder, OPERATION, {"texts": texts}, {"heads": some}))
        for encoder, some in groups.items()
    ]
    try:
        answers = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()  # Where one is refused, so are all.
    found = {}
    for answer, some in zip(answers, groups.values(), strict=True):
        for number, name in enumerate(some):
            found[name] = _body(body.heads[name].route, number, name, answer)
    tokens = sum(sum(answer.tokens) for answer in answers)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    ordered = {name: found[name] for name in body.heads}
    table = {"object": "heads", "heads": ordered, "models": models, "encoders": len(groups), "usage": usage}
    return json_response(_together(answers), table, sum(map(len, texts)))


def _wanted(name: str, head: Head, ask: Dispatcher, truncate: str | None) -> tuple[str, dict[str, Any]]:
    """The model of a head, and what `trunk.py` is told of it."""
    what, tasks = ROUTES[head.route]
    options: dict[str, Any] = {"truncate": truncate}
    try:
        model = ask.select_model(head.model, what, tasks)
        found: dict[str, Any] = {"lane": f"{model}/{what}", "options": options}
        if isinstance(head, schemas.EmbedHead):
            options |= {"dimensions": head.dimensions, "prompt": head.prompt_name, "normalize": head.normalize}
        elif isinstance(head, schemas.StatesHead):
            options["prompt"] = head.prompt_name
        elif isinstance(head, schemas.TagHead) and head.types is not None:
            found["types"] = types_of(head.types, ask, model)
    except ApiError as refusal:
        message, param = f"heads.{name}: {refusal.message}", f"heads.{name}"
        raise ApiError(refusal.status, refusal.code, message, param) from refusal
    return model, found


def _encoder(ask: Dispatcher, model: str, what: str) -> str:
    """Under whose name the encoder of a head runs."""
    facts = next(facts for facts in ask.backend.models_info if facts["id"] == model)
    found: str | None = facts.get("encoder", {}).get(what)
    if found is None:
        raise ApiError(
            400, "unsupported_task", f"'{model}' answers by a head of its own: ask it by its own route.", "heads"
        )
    return found


def _body(route: str, number: int, name: str, answer: InferenceResult) -> Any:
    """As the route gives it."""
    table: Mapping[str, Any] = answer.body["heads"][name]
    arrays = {key.partition("/")[2]: value for key, value in answer.arrays.items() if key.startswith(f"{number}/")}
    if route == "embed":
        vectors: np.ndarray = arrays["vectors"]
        return vectors
    if route == "embed_all":
        return token_vectors(arrays)
    return labels(table) if route == "predict" else spans(table)


def _together(answers: list[InferenceResult]) -> InferenceResult:
    """What they took together: stages of the slowest, tokens of all."""
    slowest = max(answers, key=lambda answer: answer.seconds.get("total", 0.0))
    dropped = [max(some) for some in zip(*(answer.dropped for answer in answers), strict=True)]
    return InferenceResult({}, {}, [sum(answer.tokens) for answer in answers], dropped, slowest.seconds)
