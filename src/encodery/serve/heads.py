"""`/v1/heads`: vectors, labels and tags of the same texts in one request, each as its own route gives them.

Heads on one encoder are computed together by `multi_head.py`: each text passes through the encoder once. Heads on
another encoder are computed beside them, and `encoders` of the answer is the number of encoders.
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
from encodery.serve.routes import CLASSES, TAGS, check_types, dispatcher_of, labels, spans, token_vectors
from encodery.serve.served_model import InferenceResult

ROUTES: dict[str, tuple[str, tuple[str, ...]]] = {
    "embed": ("embed", ()),
    "embed_all": ("states", ()),
    "predict": ("predict", CLASSES),
    "tag": ("predict", TAGS),
}
"""Route → the operation that answers it, and the tasks that do."""
Head = schemas.EmbedHead | schemas.StatesHead | schemas.PredictHead | schemas.TagHead
router = APIRouter(route_class=JsonRoute, responses=schemas.ERRORS)


@router.post("/v1/heads", tags=["encodery"])
async def heads(request: Request, body: schemas.HeadsBody) -> Response:
    """{"heads": {name: what its route gives, ...}, "models", "encoders", "usage"}, by the names of the request."""
    dispatcher = dispatcher_of(request)
    texts = check_texts(body.input, "input", dispatcher.max_inputs)
    models, by_encoder = {}, dict[str, dict[str, Any]]()
    for name, head in body.heads.items():
        models[name], options = _head_options(name, head, dispatcher, body.truncate)
        encoder = _encoder(dispatcher, models[name], ROUTES[head.route][0])
        by_encoder.setdefault(encoder, {})[name] = options
    tasks = [
        asyncio.ensure_future(dispatcher(request, encoder, OPERATION, {"texts": texts}, {"heads": own}))
        for encoder, own in by_encoder.items()
    ]
    try:
        results = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()  # If one fails, the others are not needed.
    answers = {}
    for result, own in zip(results, by_encoder.values(), strict=True):
        for number, name in enumerate(own):
            answers[name] = _answer(body.heads[name].route, number, name, result)
    tokens = sum(sum(result.tokens) for result in results)
    table = {
        "object": "heads",
        "heads": {name: answers[name] for name in body.heads},
        "models": models,
        "encoders": len(by_encoder),
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return json_response(_combined(results), table, sum(map(len, texts)))


def _head_options(name: str, head: Head, dispatcher: Dispatcher, truncate: str | None) -> tuple[str, dict[str, Any]]:
    """The model of a head, and its options as `multi_head.py` reads them."""
    operation, tasks = ROUTES[head.route]
    options: dict[str, Any] = {"truncate": truncate}
    try:
        model = dispatcher.select_model(head.model, operation, tasks)
        head_options: dict[str, Any] = {"endpoint": f"{model}/{operation}", "options": options}
        if isinstance(head, schemas.EmbedHead):
            options |= {"dimensions": head.dimensions, "prompt": head.prompt_name, "normalize": head.normalize}
        elif isinstance(head, schemas.StatesHead):
            options["prompt"] = head.prompt_name
        elif isinstance(head, schemas.TagHead) and head.types is not None:
            head_options["types"] = check_types(head.types, dispatcher, model)
    except ApiError as error:
        message, param = f"heads.{name}: {error.message}", f"heads.{name}"
        raise ApiError(error.status, error.code, message, param) from error
    return model, head_options


def _encoder(dispatcher: Dispatcher, model: str, operation: str) -> str:
    """The model under whose name the encoder of a head runs."""
    info = next(info for info in dispatcher.backend.models_info if info["id"] == model)
    encoder: str | None = info.get("encoder", {}).get(operation)
    if encoder is None:
        message = f"'{model}' does not answer from its encoder's output alone; use its own route."
        raise ApiError(400, "unsupported_task", message, "heads")
    return encoder


def _answer(route: str, number: int, name: str, result: InferenceResult) -> Any:
    """What the route of a head gives."""
    body: Mapping[str, Any] = result.body["heads"][name]
    arrays = {key.partition("/")[2]: value for key, value in result.arrays.items() if key.startswith(f"{number}/")}
    if route == "embed":
        vectors: np.ndarray = arrays["vectors"]
        return vectors
    if route == "embed_all":
        return token_vectors(arrays)
    return labels(body) if route == "predict" else spans(body)


def _combined(results: list[InferenceResult]) -> InferenceResult:
    """What several results took: the stages of the slowest, the tokens of all."""
    slowest = max(results, key=lambda result: result.seconds.get("total", 0.0))
    dropped = [max(counts) for counts in zip(*(result.dropped for result in results), strict=True)]
    return InferenceResult({}, {}, [sum(result.tokens) for result in results], dropped, slowest.seconds)
