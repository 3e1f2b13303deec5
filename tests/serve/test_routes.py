"""Routes and dispatch without models: which model a request goes to, and how results become answers."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from fastapi.testclient import TestClient

from encodery.serve import schemas
from encodery.serve.api_error import ApiError
from encodery.serve.app import make_app
from encodery.serve.backend import Backend
from encodery.serve.dispatch import Dispatcher, json_response, to_json
from encodery.serve.http import HttpSettings
from encodery.serve.served_model import InferenceRequest, InferenceResult

MODELS: list[dict[str, Any]] = [
    {"id": "dense", "operations": {"embed": {"dimension": 2}, "states": {}, "tokenize": {}}},
    {"id": "terms", "operations": {"sparse": {}}},
    {"id": "labels", "operations": {"predict": {"task": "classify", "inputs": [["text"]]}}},
    {"id": "ranker", "operations": {"predict": {"task": "rank", "inputs": [["query", "text"]]}}},
    {"id": "spans", "operations": {"predict": {"task": "span", "inputs": [["question", "context"]]}}},
]


class FixedBackend(Backend):
    """Gives the result of a function and keeps the requests."""

    def __init__(self, answer: Callable[[InferenceRequest], InferenceResult]) -> None:
        self.models_info, self.answer, self.requests = MODELS, answer, list[InferenceRequest]()

    async def infer(self, request: InferenceRequest, urgent: bool = False) -> InferenceResult:
        self.requests.append(request)
        return self.answer(request)

    async def probe(self) -> float:
        return 0.25

    async def drain(self, seconds: float) -> bool:
        return True

    def load(self) -> dict[str, int]:
        return {"requests": 0, "tokens": 0}


def post(
    path: str, body: dict[str, Any], answer: Callable[[InferenceRequest], InferenceResult]
) -> tuple[Any, InferenceRequest]:
    """The JSON of a response, and the request that the backend got."""
    backend = FixedBackend(answer)
    response = TestClient(make_app(backend, HttpSettings(token_ids=True), max_inputs=3)).post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json(), backend.requests[-1]


def error_code(path: str, body: dict[str, Any]) -> str:
    """The code of the error of a request that no model gets."""
    backend = FixedBackend(lambda request: InferenceResult())
    response = TestClient(make_app(backend, HttpSettings(token_ids=True), max_inputs=3)).post(path, json=body)
    assert not backend.requests
    return str(response.json()["error"]["code"])


def vectors(request: InferenceRequest) -> InferenceResult:
    texts = request.inputs.get("texts", request.inputs.get("ids"))
    array = np.array([[3.0, 4.0 * (-1) ** index] for index in range(len(texts))], np.float32)
    return InferenceResult({}, {"vectors": array}, [5] * len(texts), [0] * len(texts))


def test_the_model_of_a_request() -> None:
    dispatcher = Dispatcher(FixedBackend(vectors), 3)
    assert dispatcher.select_model(None, "embed") == "dense"
    assert dispatcher.select_model(None, "predict", ("rank",)) == "ranker"
    assert dispatcher.select_model("labels", "predict", ("classify", "pair")) == "labels"
    assert dispatcher.operation_info("ranker", "predict")["task"] == "rank"
    for name, operation, tasks, code, message in (
        ("labls", "predict", (), "model_not_found", "Did you mean 'labels'"),
        ("dense", "predict", ("rank",), "unsupported_task", "'dense' does not support 'rank'; it supports embed"),
        (None, "search", (), "unsupported_task", "No model on this server supports 'search'"),
    ):
        with pytest.raises(ApiError, match=message) as raised:
            dispatcher.select_model(name, operation, tasks)
        assert raised.value.code == code


def test_headers_have_the_times_of_the_stages() -> None:
    seconds = {"tokenise": 0.001, "queue": 0.002, "run": 0.25, "total": 0.3}
    response = json_response(InferenceResult({}, {}, [3, 4], [0, 2], seconds), {"a": np.ones(2, np.float32)}, 9)
    assert response.body == b'{"a":[1.0,1.0]}'
    names = ("x-tokenization-time", "x-queue-time", "x-inference-time", "x-compute-time")
    assert [response.headers[name] for name in names] == ["1.000", "2.000", "250.000", "300.000"]
    names = ("x-compute-tokens", "x-compute-characters", "x-dropped-tokens")
    assert [response.headers[name] for name in names] == ["7", "9", "2"]
    assert to_json({"a": np.arange(4).reshape(2, 2).T}) == b'{"a":[[0,2],[1,3]]}'


def test_embeddings_as_numbers_and_as_base64() -> None:
    answer, request = post("/v1/embeddings", {"model": "dense", "input": ["a", "b"], "prompt_name": "query"}, vectors)
    assert [row["embedding"] for row in answer["data"]] == [[3.0, 4.0], [3.0, -4.0]]
    assert answer["usage"] == {"prompt_tokens": 10, "total_tokens": 10}
    assert request.options == {"truncate": None, "dimensions": None, "prompt": "query"}
    answer, request = post("/v1/embeddings", {"model": "dense", "input": [7, 8], "encoding_format": "base64"}, vectors)
    assert request.inputs == {"ids": [[7, 8]]}
    assert np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4").tolist() == [3.0, 4.0]


def test_truncation_in_the_words_of_tei() -> None:
    for body, policy in (({"truncate": True}, "right"), ({"truncate": True, "truncation_direction": "Left"}, "left"),
                         ({"truncate": False}, "error"), ({"truncate": "chunk"}, "chunk"), ({}, None)):  # fmt: skip
        assert post("/embed", {"inputs": "a", **body}, vectors)[1].options["truncate"] == policy


def test_terms_of_each_text() -> None:
    def terms(request: InferenceRequest) -> InferenceResult:
        arrays = {"term_ids": np.array([4, 9, 7]), "weights": np.array([1.0, 0.5, 2.0]), "ends": np.array([2, 2, 3])}
        return InferenceResult({}, arrays, [3, 2, 3], [0, 0, 0])

    answer, _ = post("/embed_sparse", {"inputs": ["a b", "x", "c"]}, terms)
    assert answer == [[{"index": 4, "value": 1.0}, {"index": 9, "value": 0.5}], [], [{"index": 7, "value": 2.0}]]


def test_similarity_is_the_cosine() -> None:
    body = {"inputs": {"source_sentence": "a", "sentences": ["b", "c"]}}
    assert post("/similarity", body, vectors)[0] == pytest.approx([-7 / 25, 1.0])


def test_documents_are_ranked_by_their_logit() -> None:
    def logits(request: InferenceRequest) -> InferenceResult:
        answers = [{"logit": value} for value in (-1.0, 2.0, 0.0)]
        return InferenceResult({"answers": answers}, {}, [4, 4, 4], [0, 0, 0])

    body = {"query": "q", "documents": ["a", {"text": "b"}, "c"], "top_n": 2, "return_documents": True}
    answer, request = post("/v1/rerank", body, logits)
    assert request.inputs["rows"] == {"query": ["q"] * 3, "text": ["a", "b", "c"]}
    assert [hit["index"] for hit in answer["results"]] == [1, 2]
    assert [hit["relevance_score"] for hit in answer["results"]] == pytest.approx([1 / (1 + np.exp(-2)), 0.5])
    assert answer["results"][0]["document"] == {"text": "b"}
    assert "document" not in post("/v2/rerank", body, logits)[0]["results"][0]
    raw = post("/rerank", {"query": "q", "texts": ["a", "b", "c"], "raw_scores": True}, logits)[0]
    assert [(hit["index"], hit["score"]) for hit in raw] == [(1, 2.0), (2, 0.0), (0, -1.0)]


def test_labels_of_one_text_and_of_a_batch() -> None:
    def classes(request: InferenceRequest) -> InferenceResult:
        rows = request.inputs["rows"]["text"]
        answers = [{"probabilities": {"no": 0.25, "yes": 0.75}} for _ in rows]
        return InferenceResult({"answers": answers}, {}, [3] * len(rows), [0] * len(rows))

    expected = [{"label": "yes", "score": 0.75}, {"label": "no", "score": 0.25}]
    assert post("/predict", {"inputs": "a"}, classes)[0] == expected
    assert post("/predict", {"inputs": [["a"], ["b"]]}, classes)[0] == [expected, expected]
    assert error_code("/predict", {"inputs": ["a", "b"]}) == "invalid_parameter"  # The model reads no pairs.
    assert error_code("/predict", {"inputs": [["a"], ["b", "c"]]}) == "invalid_parameter"


def test_answers_need_as_many_questions_as_contexts() -> None:
    body = {"question": ["a", "b"], "context": ["c"]}
    assert error_code("/answer", body) == "invalid_parameter"
    assert error_code("/embed", {"inputs": ["a"] * 4}) == "too_many_inputs"
    assert error_code("/embed", {"inputs": ["a", ""]}) == "empty_input"
    assert error_code("/embed", {"inputs": [[1], []]}) == "empty_input"
    assert error_code("/tag", {"inputs": "a"}) == "unsupported_task"


def test_state_of_the_server() -> None:
    client = TestClient(make_app(FixedBackend(vectors)))
    assert client.get("/health").json() == {"status": "ready", "seconds": 0.25}
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == [info["id"] for info in MODELS]
    assert client.get("/v1/models/dense").json()["operations"] == ["embed", "states", "tokenize"]
    assert client.get("/v1/models/dens").json()["error"]["code"] == "model_not_found"
    assert client.get("/info").json()["load"] == {"requests": 0, "tokens": 0}
    assert client.get("/nothing").json()["error"]["code"] == "route_not_found"
    assert client.get("/embed").json()["error"]["code"] == "method_not_allowed"


REQUIRED: dict[str, Any] = {
    "input": "a", "inputs": "a", "query": "q", "texts": ["a"], "documents": ["a"], "question": "q", "context": "c",
    "source_sentence": "a", "sentences": ["b"], "text": "a", "heads": {"vectors": {"route": "embed"}}, "model": "m",
}  # fmt: skip


def bodies(base: type[schemas.RequestBody] = schemas.RequestBody) -> list[type[schemas.RequestBody]]:
    return [one for cls in base.__subclasses__() for one in (cls, *bodies(cls))]


@pytest.mark.parametrize("body", bodies(), ids=lambda body: body.__name__)
def test_a_field_that_is_null_is_absent(body: type[schemas.RequestBody]) -> None:
    fields = body.model_fields
    given = {name: REQUIRED[name] for name, field in fields.items() if field.is_required() and name in REQUIRED}
    if "route" in fields:
        given["route"] = get_args(fields["route"].annotation)[0]
    if body is schemas.SimilarityBody:
        given["inputs"] = {"source_sentence": "a", "sentences": ["b"]}
    nulls = {name: None for name, field in fields.items() if not field.is_required()}
    assert body.model_validate(given | nulls) == body.model_validate(given)


def refusal(path: str, body: dict[str, Any]) -> dict[str, str]:
    """The error of a request to a server with the default settings."""
    response = TestClient(make_app(FixedBackend(vectors))).post(path, json=body)
    assert response.status_code == 400, response.text
    error: dict[str, str] = response.json()["error"]
    return error


@pytest.mark.parametrize("ids", [[1820, 1917], [[1820, 1917]], [[5], [6, 7]]])
def test_token_ids_are_refused_unless_they_are_asked_for(ids: Any) -> None:
    for path, body in (("/v1/embeddings", {"model": "dense", "input": ids}), ("/embed", {"inputs": ids})):
        error = refusal(path, body)
        assert error["code"] == "token_ids_not_accepted"
        assert "--accept-token-ids" in error["message"]
        assert "check_embedding_ctx_length" in error["message"]
        assert post(path, body, vectors)[1].inputs["ids"] == (ids if isinstance(ids[0], list) else [ids])


@pytest.mark.parametrize(
    ("path", "body", "hint"),
    [
        ("/v1/rerank", {"query": "q", "documents": ["a"], "top_k": 2}, "'top_n'"),
        ("/rerank", {"query": "q", "texts": ["a"], "return_documents": True}, "'return_text'"),
        ("/v1/embeddings", {"model": "dense", "input": "a", "input_type": "query"}, "'prompt_name'"),
        ("/v1/embeddings", {"model": "dense", "input": "a", "embedding_types": ["float"]}, "'encoding_format'"),
        ("/v1/embeddings", {"model": "dense", "input": "a", "truncate_prompt_tokens": 9}, "'truncate'"),
        ("/v1/embeddings", {"model": "dense", "input": "a", "output_dimension": 9}, "'dimensions'"),
        ("/embed", {"texts": "a"}, "'inputs'"),
        ("/embed", {"inputs": "a", "promt_name": "query"}, "'prompt_name'"),
        ("/search", {"query": "a", "limit": 3}, "'top_k'"),
        ("/v1/heads", {"input": "a", "heads": {"x": {"route": "embed", "input_type": "query"}}}, "'prompt_name'"),
    ],
)  # fmt: skip
def test_a_field_of_another_service_is_answered_with_the_name_here(path: str, body: Any, hint: str) -> None:
    error = refusal(path, body)
    assert error["code"] == "unknown_parameter"
    assert hint in error["message"]


def test_fields_without_effect_are_accepted() -> None:
    body = {"model": "dense", "input": "a", "user": "u", "priority": 1, "input_type": None, "truncate": "END"}
    assert post("/v1/embeddings", body, vectors)[1].options["truncate"] == "right"
    for cohere, ours in (("NONE", "error"), ("START", "left")):
        assert post("/embed", {"inputs": "a", "truncate": cohere}, vectors)[1].options["truncate"] == ours


def test_documents_that_are_objects_come_back_and_blank_ones_are_last() -> None:
    def logits(request: InferenceRequest) -> InferenceResult:
        rows = request.inputs["rows"]["text"]
        return InferenceResult({"answers": [{"logit": -float(len(text))} for text in rows]}, {}, [4] * len(rows), [0])

    documents = [{"text": "long text", "id": 7, "tags": ["x"]}, " ", "a"]
    body = {"query": "q", "documents": documents, "max_chunks_per_doc": 3, "return_documents": True}
    answer, request = post("/v1/rerank", body, logits)
    assert request.inputs["rows"] == {"query": ["q"] * 2, "text": ["long text", "a"]}
    assert [hit["index"] for hit in answer["results"]] == [2, 0, 1]
    assert [hit["document"] for hit in answer["results"]] == [{"text": "a"}, documents[0], {"text": " "}]
    assert answer["results"][2]["relevance_score"] == 0.0
    rows = post("/rerank", {"query": "q", "texts": ["", "b"], "raw_scores": True}, logits)[0]
    assert [row["index"] for row in rows] == [1, 0]
    fields = {"query": "q", "documents": [{"title": "t", "body": "b", "n": 1}], "rank_fields": ["title", "body"]}
    assert post("/v2/rerank", fields, logits)[1].inputs["rows"]["text"] == ["t\nb"]
    assert error_code("/v1/rerank", {"query": "q", "documents": [{"title": "t"}]}) == "invalid_parameter"
    assert error_code("/v1/rerank", {"query": "q", "documents": ["", " "]}) == "empty_input"


def head_code(settings: HttpSettings, headers: list[tuple[str, str]]) -> str:
    """The code of the error by the headers of a request, "" if it is answered."""
    client = TestClient(make_app(FixedBackend(vectors), settings))
    return client.get("/v1/models", headers=headers).headers.get("x-encodery-code", "")


def test_other_hosts_are_refused_if_the_names_are_limited() -> None:
    local = HttpSettings(hosts=("127.0.0.1", "models.example"))
    for host in ("localhost", "LOCALHOST:8080", "localhost.:80", "127.0.0.1:8080", "[::1]:80", "models.example:8080"):
        assert head_code(local, [("Host", host)]) == ""
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8080"):
        assert head_code(local, [("Host", host)]) == "host_not_allowed"
        assert head_code(HttpSettings(), [("Host", host)]) == ""


def test_a_header_that_counts_once_is_refused_twice() -> None:
    keys = HttpSettings(keys=("right",))
    assert head_code(keys, [("Authorization", "Bearer right")]) == ""
    twice = [("Authorization", "Bearer wrong"), ("Authorization", "Bearer right")]
    assert head_code(keys, twice) == head_code(keys, twice[::-1]) == "invalid_request"


def test_a_trailing_slash_is_no_other_route() -> None:
    client = TestClient(make_app(FixedBackend(vectors)), follow_redirects=False)
    assert client.post("/embed/", json={"inputs": "a"}).status_code == 200
    assert client.get("/health/").status_code == 200
    closed = TestClient(make_app(FixedBackend(vectors), HttpSettings(keys=("key",))), follow_redirects=False)
    assert closed.get("/v1/models/").status_code == 401
