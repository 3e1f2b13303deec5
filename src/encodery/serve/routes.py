"""The routes: OpenAI's, Cohere's and Jina's, those of text-embeddings-inference (TEI), and our own.

Bodies and answers have the fields of the services named, so that their clients work unchanged.
Shapes: N texts, K dimension of a vector.
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
from encodery.serve.served_model import InferenceResult

CLASSES = ("classify", "pair", "multilabel", "regress", "label_match", "cloze", "instruct")
TAGS, ANSWERS, RANKS = ("tag", "label_spans"), ("span",), ("rank",)
TOKEN_IDS_REFUSED = (
    "holds token ids, and this server takes texts: ids of another tokenizer give wrong vectors without an error. "
    "Send texts (LangChain: check_embedding_ctx_length=False), or start the server with --accept-token-ids if the "
    "client has the tokenizer of the model."
)
BLANK_LOGIT = -1000.0
"""The score of a blank text before the sigmoid, whose value is 0."""
router = APIRouter(route_class=JsonRoute, responses=schemas.ERRORS)


def dispatcher_of(request: Request) -> Dispatcher:
    """The application's dispatcher."""
    dispatcher: Dispatcher = request.app.state.dispatcher
    return dispatcher


def _inputs(request: Request, inputs: Any, name: str) -> tuple[dict[str, Any], int]:
    """Texts or ids as the engine takes them, and the number of characters."""
    max_inputs = dispatcher_of(request).max_inputs
    if isinstance(inputs, list) and inputs and isinstance(inputs[0], int):
        inputs = [inputs]
    if isinstance(inputs, list) and inputs and isinstance(inputs[0], list):
        if not request.app.state.settings.token_ids:
            raise ApiError(400, "token_ids_not_accepted", f"{name}: {TOKEN_IDS_REFUSED}", name)
        check_count(len(inputs), name, max_inputs)
        empty = next((index for index, ids in enumerate(inputs) if not ids), None)
        if empty is not None:
            raise ApiError(400, "empty_input", f"{name}[{empty}] is empty.", name)
        return {"ids": inputs}, 0
    texts = check_texts(inputs, name, max_inputs)
    return {"texts": texts}, sum(map(len, texts))


@router.post("/v1/embeddings", tags=["OpenAI"])
@router.post("/embeddings", tags=["OpenAI"], include_in_schema=False)
async def embeddings(request: Request, body: schemas.EmbeddingsBody) -> Response:
    """A vector for each input, in OpenAI's format."""
    dispatcher = dispatcher_of(request)
    model = dispatcher.select_model(body.model, "embed")
    inputs, characters = _inputs(request, body.input, "input")
    options = {"truncate": body.truncate, "dimensions": body.dimensions, "prompt": body.prompt_name}
    result = await dispatcher(request, model, "embed", inputs, options)
    vectors: Any = np.ascontiguousarray(result.arrays["vectors"], "<f4")
    if body.encoding_format == "base64":
        vectors = [base64.b64encode(vector.tobytes()).decode("ascii") for vector in vectors]
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    tokens = sum(result.tokens)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_response(result, {"object": "list", "data": data, "model": model, "usage": usage}, characters)


@router.post("/embed", tags=["TEI"])
async def embed(request: Request, body: schemas.EmbedBody) -> Response:
    """[[K numbers], ...]: a vector for each input."""
    dispatcher = dispatcher_of(request)
    model = dispatcher.select_model(body.model, "embed")
    inputs, characters = _inputs(request, body.inputs, "inputs")
    options = {
        "truncate": body.policy(),
        "dimensions": body.dimensions,
        "prompt": body.prompt_name,
        "normalize": body.normalize,
    }
    result = await dispatcher(request, model, "embed", inputs, options)
    return json_response(result, result.arrays["vectors"], characters)


@router.post("/embed_all", tags=["TEI"])
async def embed_all(request: Request, body: schemas.TextsBody) -> Response:
    """[[[K numbers], ...], ...]: a vector for each token of each input."""
    dispatcher = dispatcher_of(request)
    infos = [info for info in dispatcher.backend.models_info if body.model in (None, info["id"])]
    operation = "multi_vector" if any("multi_vector" in info["operations"] for info in infos) else "states"
    model = dispatcher.select_model(body.model, operation)
    texts = check_texts(body.inputs, "inputs", dispatcher.max_inputs)
    options = {"truncate": body.policy(), "prompt": body.prompt_name}
    result = await dispatcher(request, model, operation, {"texts": texts}, options)
    return json_response(result, token_vectors(result.arrays), sum(map(len, texts)))


@router.post("/embed_sparse", tags=["TEI"])
async def embed_sparse(request: Request, body: schemas.TextsBody) -> Response:
    """[[{"index", "value"}, ...], ...]: the terms with a weight, for each input."""
    dispatcher = dispatcher_of(request)
    model = dispatcher.select_model(body.model, "sparse")
    texts = check_texts(body.inputs, "inputs", dispatcher.max_inputs)
    options = {"truncate": body.policy(), "prompt": body.prompt_name}
    result = await dispatcher(request, model, "sparse", {"texts": texts}, options)
    term_ids, weights, ends = (result.arrays[name].tolist() for name in ("term_ids", "weights", "ends"))
    pairs = [{"index": term_id, "value": weight} for term_id, weight in zip(term_ids, weights, strict=True)]
    answer = [pairs[start:stop] for start, stop in itertools.pairwise([0, *ends])]
    return json_response(result, answer, sum(map(len, texts)))


@router.post("/similarity", tags=["TEI"])
async def similarity(request: Request, body: schemas.SimilarityBody) -> Response:
    """The cosine of one sentence with each of several others."""
    dispatcher = dispatcher_of(request)
    parameters = body.parameters or schemas.SimilarityParameters()
    model = dispatcher.select_model(body.model or parameters.model, "embed")
    texts = check_texts(body.inputs.source_sentence, "inputs", 1)
    texts += check_texts(body.inputs.sentences, "inputs", dispatcher.max_inputs - 1)
    options = {"truncate": parameters.policy(), "prompt": parameters.prompt_name}
    result = await dispatcher(request, model, "embed", {"texts": texts}, options)
    vectors = result.arrays["vectors"].astype(np.float64)
    lengths = np.maximum(np.linalg.norm(vectors, axis=1), 1e-12)
    cosines = vectors[1:] @ vectors[0] / (lengths[1:] * lengths[0])
    return json_response(result, np.clip(cosines, -1, 1), sum(map(len, texts)))


async def _rank(
    request: Request, model: str | None, query: str, texts: list[str], options: dict[str, Any]
) -> tuple[InferenceResult, str, np.ndarray]:
    """The result, the model, and the score (N,) of each text before the sigmoid; blank texts are last."""
    dispatcher = dispatcher_of(request)
    selected = dispatcher.select_model(model, "predict", RANKS)
    written = [index for index, text in enumerate(texts) if text.strip()]
    if not written:
        raise ApiError(400, "empty_input", "All texts are blank.")
    rows = {"query": check_texts(query, "query", 1) * len(written), "text": [texts[index] for index in written]}
    result = await dispatcher(request, selected, "predict", {"rows": rows}, options)
    scores = np.full(len(texts), BLANK_LOGIT)
    scores[written] = [answer["logit"] for answer in result.body["answers"]]
    return result, selected, scores


def _order(scores: np.ndarray) -> list[int]:
    return [int(index) for index in np.argsort(-scores, kind="stable")]


def _sigmoid(score: float) -> float:
    """Without overflow."""
    return 1 / (1 + math.exp(-score)) if score >= 0 else math.exp(score) / (1 + math.exp(score))


@router.post("/rerank", tags=["TEI", "Cohere and Jina"])
async def rerank(request: Request, body: schemas.AnyRerankBody) -> Response:
    """In TEI's format if there are `texts`, in Cohere's and Jina's if there are `documents`."""
    if isinstance(body, schemas.RerankBody):
        return await _rerank(request, body, cohere=False)
    texts = check_texts(body.texts, "texts", dispatcher_of(request).max_inputs, allow_empty=True)
    result, _, scores = await _rank(request, body.model, body.query, texts, {"truncate": body.policy()})
    answer = []
    for index in _order(scores):
        score = float(scores[index]) if body.raw_scores else _sigmoid(scores[index])
        answer.append({"index": index, "score": score} | ({"text": texts[index]} if body.return_text else {}))
    return json_response(result, answer, len(body.query) + sum(map(len, texts)))


@router.post("/v1/rerank", tags=["Cohere and Jina"])
async def rerank_v1(request: Request, body: schemas.RerankBody) -> Response:
    """Documents by their relevance to the query; with their texts if `return_documents` is true."""
    return await _rerank(request, body, cohere=False)


@router.post("/v2/rerank", tags=["Cohere and Jina"])
async def rerank_v2(request: Request, body: schemas.RerankBody) -> Response:
    """The same in the format of Cohere's second version: never with the documents' texts."""
    return await _rerank(request, body, cohere=True)


async def _rerank(request: Request, body: schemas.RerankBody, cohere: bool) -> Response:
    documents = [_document_text(index, body) for index in range(len(body.documents))]
    texts = check_texts(documents, "documents", dispatcher_of(request).max_inputs, allow_empty=True)
    options = {"truncate": body.truncate, "document_tokens": body.max_tokens_per_doc}
    result, model, scores = await _rank(request, body.model, body.query, texts, options)
    ranked = []
    for index in _order(scores)[: body.top_n]:
        hit: dict[str, Any] = {"index": index, "relevance_score": _sigmoid(scores[index])}
        if body.return_documents and not cohere:
            document = body.documents[index]
            hit["document"] = (
                {"text": document} if isinstance(document, str) else document.model_dump(exclude_unset=True)
            )
        ranked.append(hit)
    tokens = sum(result.tokens)
    meta = {"api_version": {"version": "2" if cohere else "1"}, "tokens": {"input_tokens": tokens}}
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    table = {"id": str(uuid4()), "model": model, "results": ranked, "usage": usage, "meta": meta}
    return json_response(result, table, len(body.query) + sum(map(len, texts)))


def _document_text(index: int, body: schemas.RerankBody) -> str:
    """The text of a document: its own, or that of `rank_fields`, one field per line."""
    document = body.documents[index]
    if isinstance(document, str):
        return document
    fields = document.model_dump()
    texts = [fields.get(name) for name in body.rank_fields or ("text",)]
    if all(text is None for text in texts):
        names = ", ".join(f"'{name}'" for name in (body.rank_fields or ("text",))[:5])
        message = f"documents[{index}] has no {names}; `rank_fields` names the fields with the text."
        raise ApiError(400, "invalid_parameter", message, "documents")
    return "\n".join(str(text) for text in texts if text is not None)


@router.post("/predict", tags=["TEI"])
async def predict(request: Request, body: schemas.PredictBody) -> Response:
    """[{"label", "score"}, ...], best first, for a text or a pair [a, b]; a list of those for a batch."""
    dispatcher = dispatcher_of(request)
    model = dispatcher.select_model(body.model, "predict", CLASSES)
    single = isinstance(body.inputs, str) or bool(body.inputs and isinstance(body.inputs[0], str))
    batch: Any = [body.inputs] if single else body.inputs
    rows = [[row] if isinstance(row, str) else row for row in batch]
    check_count(len(rows), "inputs", dispatcher.max_inputs)
    sizes = {len(row) for row in rows}
    if sizes not in ({1}, {2}):
        message = "inputs: must be texts, or pairs [a, b], and not a mix of both."
        raise ApiError(400, "invalid_parameter", message, "inputs")
    reads_pairs = any("text_b" in roles for roles in dispatcher.operation_info(model, "predict")["inputs"])
    if single and sizes == {2} and not reads_pairs:
        message = f"inputs: a list of two texts is a pair, and '{model}' reads single texts. Write [[a], [b]] for two."
        raise ApiError(400, "invalid_parameter", message, "inputs")
    roles = ("text", "text_b")[: sizes.pop()]
    columns = {
        role: check_texts([row[index] for row in rows], "inputs", dispatcher.max_inputs)
        for index, role in enumerate(roles)
    }
    result = await dispatcher(request, model, "predict", {"rows": columns}, {"truncate": body.policy()})
    answer = labels(result.body)
    return json_response(result, answer[0] if single else answer, sum(len(text) for row in rows for text in row))


def token_vectors(arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The answer of `/embed_all`."""
    return np.split(arrays["vectors"], arrays["ends"][:-1])


def labels(body: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """The answer of `/predict`."""
    return [_scored_labels(answer) for answer in body["answers"]]


def spans(body: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """The answer of `/tag`."""
    return [answer.get("spans", answer["prediction"]) for answer in body["answers"]]


def _scored_labels(answer: dict[str, Any]) -> list[dict[str, Any]]:
    if "probabilities" not in answer:
        return [{"label": "score", "score": answer["prediction"]}]
    pairs = sorted(answer["probabilities"].items(), key=lambda pair: -pair[1])
    return [{"label": str(label), "score": probability} for label, probability in pairs]


@router.post("/tokenize", tags=["TEI"])
async def tokenize(request: Request, body: schemas.TokenizeBody) -> Response:
    """The tokens of each input, with the characters of each token."""
    dispatcher = dispatcher_of(request)
    model = dispatcher.select_model(body.model, "tokenize")
    texts = check_texts(body.inputs, "inputs", dispatcher.max_inputs, allow_empty=True)
    options = {"add_special_tokens": body.add_special_tokens}
    result = await dispatcher(request, model, "tokenize", {"texts": texts}, options)
    return json_response(result, result.body["tokens"], sum(map(len, texts)))


@router.post("/fill", tags=["encodery"])
async def fill(request: Request, body: schemas.FillBody) -> Response:
    """The most probable tokens for each [MASK] of each input."""
    dispatcher = dispatcher_of(request)
    model = dispatcher.select_model(body.model, "fill")
    texts = check_texts(body.inputs, "inputs", dispatcher.max_inputs)
    options = {"top_k": body.top_k, "one_by_one": body.one_by_one}
    result = await dispatcher(request, model, "fill", {"texts": texts}, options)
    return json_response(result, result.body["filled"], sum(map(len, texts)))


@router.post("/tag", tags=["encodery"])
async def tag(request: Request, body: schemas.TagBody) -> Response:
    """[[{"start", "end", "label", "text", "probability"}, ...], ...]: spans in characters, texts of any length."""
    dispatcher = dispatcher_of(request)
    model = dispatcher.select_model(body.model, "predict", TAGS)
    texts = check_texts(body.inputs, "inputs", dispatcher.max_inputs)
    rows: dict[str, Sequence[Any]] = {"text": texts}
    if body.types is not None:
        rows["types"] = [check_types(body.types, dispatcher, model)] * len(texts)
    result = await dispatcher(request, model, "predict", {"rows": rows}, {"truncate": body.policy()})
    return json_response(result, spans(result.body), sum(map(len, texts)))


def check_types(types: list[str], dispatcher: Dispatcher, model: str) -> list[str]:
    """The labels of the spans to find, checked. Raises `ApiError` for a model with fixed labels."""
    if dispatcher.operation_info(model, "predict")["task"] != "label_spans":
        message = f"'{model}' has fixed labels, so that it takes no types."
        raise ApiError(400, "invalid_parameter", message, "types")
    return check_texts(types, "types", dispatcher.max_inputs)


@router.post("/answer", tags=["encodery"])
async def answer_(request: Request, body: schemas.AnswerBody) -> Response:
    """The span of each context that answers its question; an empty one if there is none."""
    dispatcher = dispatcher_of(request)
    model = dispatcher.select_model(body.model, "predict", ANSWERS)
    rows = {role: check_texts(getattr(body, role), role, dispatcher.max_inputs) for role in ("question", "context")}
    if len(rows["question"]) != len(rows["context"]):
        message = f"{len(rows['question'])} questions and {len(rows['context'])} contexts: the numbers must be equal."
        raise ApiError(400, "invalid_parameter", message, "question")
    result = await dispatcher(request, model, "predict", {"rows": rows}, {"truncate": body.policy()})
    answers = result.body["answers"]
    single = isinstance(body.question, str) and isinstance(body.context, str)
    return json_response(result, answers[0] if single else answers, sum(map(len, rows["question"] + rows["context"])))


@router.post("/search", tags=["encodery"])
async def search(request: Request, body: schemas.SearchBody) -> Response:
    """Passages of the index, best first, with the scores of each stage."""
    dispatcher = dispatcher_of(request)
    model = dispatcher.select_model(None, "search")
    options = body.model_dump(exclude={"query"})
    if options["rerank"] is None:
        del options["rerank"]
    query = check_texts(body.query, "query", 1)[0]
    result = await dispatcher(request, model, "search", {"query": query}, options)
    return json_response(result, result.body, len(query))
