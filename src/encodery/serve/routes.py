"""The routes: OpenAI's, Cohere's and Jina's, those of text-embeddings-inference (TEI), and our own.

Shapes of requests and answers are those of the services named, so that their clients work unchanged.
Shapes: N texts, K width of a vector.
"""

from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

import numpy as np
from fastapi import APIRouter, Request, Response

from encodery.serve import schemas
from encodery.serve.api_error import ApiError
from encodery.serve.dispatch import Dispatcher, json_response
from encodery.serve.http import JsonRoute, check_count, check_texts

CLASSES = ("classify", "pair", "multilabel", "regress", "label_match", "cloze", "instruct")
TAGS, ANSWERS, RANKS = ("tag", "label_spans"), ("span",), ("rank",)
router = APIRouter(route_class=JsonRoute, responses=schemas.ERRORS)


def dispatcher_of(request: Request) -> Dispatcher:
    """The app's."""
    found: Dispatcher = request.app.state.asking
    return found


def _inputs(given: Any, name: str, most: int) -> tuple[dict[str, Any], int]:
    """Texts or ids as the engine takes them, and how many characters there are."""
    if isinstance(given, list) and given and isinstance(given[0], int):
        given = [given]
    if isinstance(given, list) and given and isinstance(given[0], list):
        check_count(len(given), name, most)
        empty = next((place for place, ids in enumerate(given) if not ids), None)
        if empty is not None:
            raise ApiError(400, "empty_input", f"{name}[{empty}] is empty.", name)
        return {"ids": given}, 0
    texts = check_texts(given, name, most)
    return {"texts": texts}, sum(map(len, texts))


@router.post("/v1/embeddings", tags=["OpenAI"])
@router.post("/embeddings", tags=["OpenAI"], include_in_schema=False)
async def embeddings(request: Request, body: schemas.EmbeddingsBody) -> Response:
    """A vector for each input, as OpenAI's clients ask for them."""
    ask = dispatcher_of(request)
    model = ask.select_model(body.model, "embed")
    inputs, characters = _inputs(body.input, "input", ask.max_inputs)
    options = {"truncate": body.truncate, "dimensions": body.dimensions, "prompt": body.prompt_name}
    answer = await ask(request, model, "embed", inputs, options)
    vectors: Any = np.ascontiguousarray(answer.arrays["vectors"], "<f4")
    if body.encoding_format == "base64":
        vectors = [base64.b64encode(row.tobytes()).decode("ascii") for row in vectors]
    data = [{"object": "embedding", "index": place, "embedding": row} for place, row in enumerate(vectors)]
    tokens = sum(answer.tokens)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_response(answer, {"object": "list", "data": data, "model": model, "usage": usage}, characters)


@router.post("/embed", tags=["TEI"])
async def embed(request: Request, body: schemas.EmbedBody) -> Response:
    """[[K numbers], ...]: a vector for each input."""
    ask = dispatcher_of(request)
    model = ask.select_model(body.model, "embed")
    inputs, characters = _inputs(body.inputs, "inputs", ask.max_inputs)
    options = {
        "truncate": body.policy(),
        "dimensions": body.dimensions,
        "prompt": body.prompt_name,
        "normalize": body.normalize,
    }
    answer = await ask(request, model, "embed", inputs, options)
    return json_response(answer, answer.arrays["vectors"], characters)


@router.post("/embed_all", tags=["TEI"])
async def embed_all(request: Request, body: schemas.TextsBody) -> Response:
    """[[[K numbers], ...], ...]: a vector for each token of each input."""
    ask = dispatcher_of(request)
    what = "late" if any("late" in facts["can"] for facts in _named(ask, body.model)) else "states"
    model = ask.select_model(body.model, what)
    texts = check_texts(body.inputs, "inputs", ask.max_inputs)
    options = {"truncate": body.policy(), "prompt": body.prompt_name}
    answer = await ask(request, model, what, {"texts": texts}, options)
    return json_response(answer, token_vectors(answer.arrays), sum(map(len, texts)))


@router.post("/embed_sparse", tags=["TEI"])
async def embed_sparse(request: Request, body: schemas.TextsBody) -> Response:
    """[[{"index", "value"}, ...], ...]: the words with a weight, for each input."""
    ask = dispatcher_of(request)
    model = ask.select_model(body.model, "sparse")
    texts = check_texts(body.inputs, "inputs", ask.max_inputs)
    options = {"truncate": body.policy(), "prompt": body.prompt_name}
    answer = await ask(request, model, "sparse", {"texts": texts}, options)
    words, weights, ends = (answer.arrays[name] for name in ("words", "weights", "ends"))
    pairs = [{"index": i, "value": v} for i, v in zip(words.tolist(), weights.tolist(), strict=True)]
    starts = [0, *ends.tolist()]
    found = [pairs[start:stop] for start, stop in itertools.pairwise(starts)]
    return json_response(answer, found, sum(map(len, texts)))


@router.post("/similarity", tags=["TEI"])
async def similarity(request: Request, body: schemas.SimilarityBody) -> Response:
    """The cosine of one sentence with each of others."""
    ask = dispatcher_of(request)
    wanted = body.parameters or schemas.SimilarityParameters()
    model = ask.select_model(body.model or wanted.model, "embed")
    texts = check_texts(body.inputs.source_sentence, "inputs", 1)
    texts += check_texts(body.inputs.sentences, "inputs", ask.max_inputs - 1)
    options = {"truncate": wanted.policy(), "prompt": wanted.prompt_name}
    answer = await ask(request, model, "embed", {"texts": texts}, options)
    vectors = answer.arrays["vectors"].astype(np.float64)
    lengths = np.maximum(np.linalg.norm(vectors, axis=1), 1e-12)
    cosines = vectors[1:] @ vectors[0] / (lengths[1:] * lengths[0])
    return json_response(answer, np.clip(cosines, -1, 1), sum(map(len, texts)))


async def _ranked(
    request: Request, model: str | None, query: str, texts: list[str], options: dict[str, Any]
) -> tuple[Any, str, np.ndarray]:
    """The answer, the model, and the score (N,) of each text before the sigmoid."""
    ask = dispatcher_of(request)
    found = ask.select_model(model, "predict", RANKS)
    rows = {"query": check_texts(query, "query", 1) * len(texts), "text": texts}
    answer = await ask(request, found, "predict", {"rows": rows}, options)
    return answer, found, np.array([one["logit"] for one in answer.body["answers"]], np.float64)


def _order(scores: np.ndarray) -> list[int]:
    return [int(place) for place in np.argsort(-scores, kind="stable")]


def _share(score: float) -> float:
    """The sigmoid, without overflow."""
    return 1 / (1 + math.exp(-score)) if score >= 0 else math.exp(score) / (1 + math.exp(score))


@router.post("/rerank", tags=["TEI", "Cohere and Jina"])
async def rerank(request: Request, body: schemas.AnyRerankBody) -> Response:
    """As TEI has it where there are `texts`, as Cohere and Jina where there are `documents`."""
    if isinstance(body, schemas.RerankBody):
        return await _rerank(request, body, cohere=False)
    texts = check_texts(body.texts, "texts", dispatcher_of(request).max_inputs)
    answer, _, scores = await _ranked(request, body.model, body.query, texts, {"truncate": body.policy()})
    found = []
    for place in _order(scores):
        score = float(scores[place]) if body.raw_scores else _share(scores[place])
        found.append({"index": place, "score": score} | ({"text": texts[place]} if body.return_text else {}))
    return json_response(answer, found, len(body.query) + sum(map(len, texts)))


@router.post("/v1/rerank", tags=["Cohere and Jina"])
async def rerank_v1(request: Request, body: schemas.RerankBody) -> Response:
    """Documents by how well they answer the query; with their texts where `return_documents` is true."""
    return await _rerank(request, body, cohere=False)


@router.post("/v2/rerank", tags=["Cohere and Jina"])
async def rerank_v2(request: Request, body: schemas.RerankBody) -> Response:
    """The same as Cohere's second version has it: never with the documents' texts."""
    return await _rerank(request, body, cohere=True)


async def _rerank(request: Request, body: schemas.RerankBody, cohere: bool) -> Response:
    given = [one if isinstance(one, str) else one.text for one in body.documents]
    texts = check_texts(given, "documents", dispatcher_of(request).max_inputs)
    options = {"truncate": body.truncate, "document_tokens": body.max_tokens_per_doc}
    answer, model, scores = await _ranked(request, body.model, body.query, texts, options)
    found = []
    for place in _order(scores)[: body.top_n]:
        one: dict[str, Any] = {"index": place, "relevance_score": _share(scores[place])}
        found.append(one | ({"document": {"text": texts[place]}} if body.return_documents and not cohere else {}))
    tokens = sum(answer.tokens)
    meta = {"api_version": {"version": "2" if cohere else "1"}, "tokens": {"input_tokens": tokens}}
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    table = {"id": str(uuid4()), "model": model, "results": found, "usage": usage, "meta": meta}
    return json_response(answer, table, len(body.query) + sum(map(len, texts)))


@router.post("/predict", tags=["TEI"])
async def predict(request: Request, body: schemas.PredictBody) -> Response:
    """[{"label", "score"}, ...], best first, for a text or a pair [a, b]; a list of those for a batch."""
    ask = dispatcher_of(request)
    model = ask.select_model(body.model, "predict", CLASSES)
    single = isinstance(body.inputs, str) or bool(body.inputs and isinstance(body.inputs[0], str))
    given: Any = [body.inputs] if single else body.inputs
    rows = [[one] if isinstance(one, str) else one for one in given]
    check_count(len(rows), "inputs", ask.max_inputs)
    sizes = {len(row) for row in rows}
    if sizes not in ({1}, {2}):
        raise ApiError(400, "invalid_parameter", "inputs: are texts, or pairs [a, b], all of one kind.", "inputs")
    if (
        single
        and sizes == {2}
        and not any("text_b" in reads for reads in ask.operation_info(model, "predict")["reads"])
    ):
        said = f"inputs: two texts in a list are a pair, and '{model}' reads single ones. Write [[a], [b]] for both."
        raise ApiError(400, "invalid_parameter", said, "inputs")
    roles = ("text", "text_b")[: sizes.pop()]
    columns = {role: check_texts([row[n] for row in rows], "inputs", ask.max_inputs) for n, role in enumerate(roles)}
    answer = await ask(request, model, "predict", {"rows": columns}, {"truncate": body.policy()})
    found = labels(answer.body)
    return json_response(answer, found[0] if single else found, sum(len(text) for row in rows for text in row))


def token_vectors(arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """As `/embed_all` gives them."""
    return np.split(arrays["rows"], arrays["ends"][:-1])


def labels(table: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """As `/predict` gives them."""
    return [_scored(one) for one in table["answers"]]


def spans(table: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """As `/tag` gives them."""
    return [one.get("spans", one["prediction"]) for one in table["answers"]]


def _scored(answer: dict[str, Any]) -> list[dict[str, Any]]:
    if "probabilities" not in answer:
        return [{"label": "score", "score": answer["prediction"]}]
    pairs = sorted(answer["probabilities"].items(), key=lambda pair: -pair[1])
    return [{"label": str(label), "score": chance} for label, chance in pairs]


@router.post("/tokenize", tags=["TEI"])
async def tokenize(request: Request, body: schemas.TokenizeBody) -> Response:
    """The tokens of each input, with the characters each stands for."""
    ask = dispatcher_of(request)
    model = ask.select_model(body.model, "tokenize")
    texts = check_texts(body.inputs, "inputs", ask.max_inputs, empty=True)
    answer = await ask(request, model, "tokenize", {"texts": texts}, {"specials": body.add_special_tokens})
    return json_response(answer, answer.body["tokens"], sum(map(len, texts)))


@router.post("/fill", tags=["encodery"])
async def fill(request: Request, body: schemas.FillBody) -> Response:
    """The most probable tokens for each [MASK] of each input."""
    ask = dispatcher_of(request)
    model = ask.select_model(body.model, "fill")
    texts = check_texts(body.inputs, "inputs", ask.max_inputs)
    answer = await ask(request, model, "fill", {"texts": texts}, {"top": body.top, "one_by_one": body.one_by_one})
    return json_response(answer, answer.body["filled"], sum(map(len, texts)))


@router.post("/tag", tags=["encodery"])
async def tag(request: Request, body: schemas.TagBody) -> Response:
    """[[{"start", "end", "label", "text", "probability"}, ...], ...]: spans in characters, texts of any length."""
    ask = dispatcher_of(request)
    model = ask.select_model(body.model, "predict", TAGS)
    texts = check_texts(body.inputs, "inputs", ask.max_inputs)
    rows: dict[str, Sequence[Any]] = {"text": texts}
    if body.types is not None:
        rows["types"] = [types_of(body.types, ask, model)] * len(texts)
    answer = await ask(request, model, "predict", {"rows": rows}, {"truncate": body.policy()})
    return json_response(answer, spans(answer.body), sum(map(len, texts)))


def types_of(given: list[str], ask: Dispatcher, model: str) -> list[str]:
    """The labels that spans are looked for by, checked. Raises `Refusal` for a model with labels of its own."""
    if ask.operation_info(model, "predict")["task"] != "label_spans":
        raise ApiError(400, "invalid_parameter", f"'{model}' has labels of its own and takes no types.", "types")
    return check_texts(given, "types", ask.max_inputs)


@router.post("/answer", tags=["encodery"])
async def answer_(request: Request, body: schemas.AnswerBody) -> Response:
    """The span of each context that answers its question; an empty one where there is none."""
    ask = dispatcher_of(request)
    model = ask.select_model(body.model, "predict", ANSWERS)
    rows = {role: check_texts(getattr(body, role), role, ask.max_inputs) for role in ("question", "context")}
    if len(rows["question"]) != len(rows["context"]):
        raise ApiError(400, "invalid_parameter", "As many questions as contexts are needed.", "question")
    answer = await ask(request, model, "predict", {"rows": rows}, {"truncate": body.policy()})
    found = answer.body["answers"]
    single = isinstance(body.question, str) and isinstance(body.context, str)
    return json_response(answer, found[0] if single else found, sum(map(len, rows["question"] + rows["context"])))


@router.post("/search", tags=["encodery"])
async def search(request: Request, body: schemas.SearchBody) -> Response:
    """Passages of the index, best first, with the scores of each stage."""
    ask = dispatcher_of(request)
    model = ask.select_model(None, "search")
    options = body.model_dump(exclude={"query"})
    if options["rerank"] is None:
        del options["rerank"]
    query = check_texts(body.query, "query", 1)[0]
    answer = await ask(request, model, "search", {"query": query}, options)
    return json_response(answer, answer.body, len(query))


def _named(ask: Dispatcher, model: str | None) -> list[dict[str, Any]]:
    return [facts for facts in ask.backend.models_info if model is None or facts["id"] == model]
