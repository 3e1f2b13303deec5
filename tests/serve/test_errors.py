"""Errors: which requests are refused, with which status and code, in one envelope."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx
import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from encodery.serve.http import HttpSettings
from encodery.serve.models import ModelRegistry

LONG = " ".join(["w1"] * 100)
BODIES: list[tuple[str, Any, int, str]] = [
    ("/embed", {"inputs": ""}, 400, "empty_input"),
    ("/embed", {"inputs": []}, 400, "empty_input"),
    ("/embed", {"inputs": ["w1", ""]}, 400, "empty_input"),
    ("/v1/embeddings", {"model": "words", "input": [[1], []]}, 400, "empty_input"),
    ("/embed", {"inputs": LONG}, 400, "input_too_long"),
    ("/embed", {"inputs": ["w1"] * 3000}, 400, "too_many_inputs"),
    ("/embed", {"inputs": 7}, 400, "invalid_parameter"),
    ("/embed", {"inputs": None}, 400, "invalid_parameter"),
    ("/embed", {"inputs": ["w1", 7]}, 400, "invalid_parameter"),
    ("/embed", {"inputs": "w1", "normalize": "yes"}, 400, "invalid_parameter"),
    ("/embed", {"inputs": "w1", "truncate": "middle"}, 400, "invalid_parameter"),
    ("/embed", {"inputs": "w1", "prompt_name": "quer"}, 400, "invalid_input"),
    ("/embed", {"inputs": "w1", "dimension": 8}, 400, "unknown_parameter"),
    ("/embed", {}, 400, "missing_parameter"),
    ("/embed", [], 400, "invalid_parameter"),
    ("/v1/embeddings", {"input": "w1"}, 400, "missing_parameter"),
    ("/v1/embeddings", {"model": "wrods", "input": "w1"}, 404, "model_not_found"),
    ("/v1/embeddings", {"model": "tags", "input": "w1"}, 400, "unsupported_task"),
    ("/v1/embeddings", {"model": "words", "input": "w1", "encoding_format": "hex"}, 400, "invalid_parameter"),
    ("/v1/embeddings", {"model": "words", "input": "w1", "dimensions": 0}, 400, "invalid_parameter"),
    ("/v1/embeddings", {"model": "words", "input": "w1", "dimensions": 7}, 400, "invalid_dimensions"),
    ("/v1/embeddings", {"model": "words", "input": "w1", "dimensions": 64}, 400, "invalid_dimensions"),
    ("/v1/embeddings", {"model": "words", "input": [5, 10**6]}, 400, "invalid_token"),
    ("/v1/embeddings", {"model": "words", "input": [5, -1]}, 400, "invalid_parameter"),
    ("/v1/embeddings", {"model": "words", "input": [True]}, 400, "invalid_parameter"),
    ("/rerank", {"query": "", "texts": ["w1"]}, 400, "empty_input"),
    ("/rerank", {"query": "w1", "texts": []}, 400, "empty_input"),
    ("/rerank", {"query": LONG, "texts": ["w1"]}, 400, "input_too_long"),
    ("/predict", {"inputs": []}, 400, "empty_input"),
    ("/predict", {"inputs": [["w1", "w2", "w3"]]}, 400, "invalid_parameter"),
    ("/predict", {"inputs": ["w1", "w2"]}, 400, "invalid_parameter"),
    ("/predict", {"inputs": [["w1", "w2"]]}, 400, "invalid_input"),
    ("/rerank", {"query": "w1", "texts": ["w1"], "documents": ["w1"]}, 400, "unknown_parameter"),
    ("/rerank", 7, 400, "invalid_parameter"),
    ("/fill", {"inputs": "w1 w2"}, 400, "invalid_input"),
    ("/tag", {"inputs": "w1", "types": ["person"]}, 400, "invalid_parameter"),
    ("/answer", {"question": ["w1"], "context": ["w1", "w2"]}, 400, "invalid_parameter"),
    ("/search", {"query": "w1"}, 400, "unsupported_task"),
    ("/embedd", {"inputs": "w1"}, 404, "route_not_found"),
    ("/health/live", {}, 405, "method_not_allowed"),
]
RAW: list[tuple[bytes, int, str]] = [
    (b"", 400, "malformed_json"),
    (b"{", 400, "malformed_json"),
    (b'{"inputs": "\\ud800"}', 400, "malformed_json"),
    (b'{"inputs": "\xff"}', 400, "malformed_json"),
    (b'{"inputs": NaN}', 400, "malformed_json"),
    (b"[" * 100_000, 400, "malformed_json"),
    (b'{"inputs": ' + b"9" * 500 + b"}", 400, ""),
    (b'{"inputs": [' + b"9" * 30 + b"]}", 400, ""),
]


def checked(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert all(isinstance(error[name], str) for name in ("message", "type", "code"))
    assert not code or error["code"] == code, error
    return error


@pytest.mark.parametrize(("path", "body", "status", "code"), BODIES, ids=[str(n) for n in range(len(BODIES))])
def test_invalid_bodies(client: httpx.Client, path: str, body: Any, status: int, code: str) -> None:
    checked(client.post(path, json=body), status, code)


@pytest.mark.parametrize(("body", "status", "code"), RAW, ids=[str(n) for n in range(len(RAW))])
def test_bodies_that_are_not_json(client: httpx.Client, body: bytes, status: int, code: str) -> None:
    checked(client.post("/embed", content=body, headers={"content-type": "application/json"}), status, code)


HEADS = [
    b"NONSENSE\r\n\r\n",
    b"POST /embed HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    b"POST /embed HTTP/1.1\r\nContent-Length: 99999999999999999999999999\r\n\r\n",
    b"POST /embed HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n{}",
]


@pytest.mark.parametrize("head", HEADS)
def test_bytes_that_are_not_http_get_the_envelope(running: Any, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", int(running.url.rsplit(":", 1)[1]))) as place:
        place.sendall(head)
        place.settimeout(20)
        answer = place.makefile("rb").read()
    status, _, rest = answer.partition(b"\r\n")
    assert status == b"HTTP/1.1 400 Bad Request"
    assert json.loads(rest.partition(b"\r\n\r\n")[2])["error"]["code"] == "malformed_http"


def test_unusual_but_valid_text_is_answered(client: httpx.Client) -> None:
    for text in ("w1\x00w2", "\u202e\u0301", "w1\r\n", "🜚" * 9, '{"a":1}'):
        assert client.post("/embed", json={"inputs": text}).status_code == 200
    twice = b'{"inputs": "w1", "inputs": "w2"}'
    response = client.post("/embed", content=twice, headers={"content-type": "application/json"})
    assert response.json() == client.post("/embed", json={"inputs": "w2"}).json()


def test_messages_name_the_numbers_and_alternatives(client: httpx.Client) -> None:
    message = checked(client.post("/embed", json={"inputs": LONG}), 400, "input_too_long")["message"]
    assert "100 tokens" in message
    assert str(32 - 2) in message
    assert "'words'" in checked(client.post("/embed", json={"inputs": "w1", "model": "wrods"}), 404, "")["message"]
    assert "8, 16, 32" in checked(client.post("/embed", json={"inputs": "w1", "dimensions": 7}), 400, "")["message"]
    assert "'/embed'" in checked(client.post("/embedd", json={"inputs": "w1"}), 404, "")["message"]
    assert checked(client.post("/embed", json={"inputs": "w1", "x": 1}), 400, "")["param"] == "x"
    message = checked(client.post("/embed", json={"inputs": ["w1", 7]}), 400, "invalid_parameter")["message"]
    assert message.startswith("inputs: ")
    message = checked(client.post("/rerank", json={"query": "w1", "documents": [{"text": 7}]}), 400, "")["message"]
    assert message.startswith("documents.0: ")


def test_other_content_types_are_refused(client: httpx.Client) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        response = client.post("/embed", content=b'{"inputs": "w1"}', headers={"content-type": kind})
        checked(response, 415, "unsupported_media_type")


def test_large_bodies_are_refused_before_they_are_read(served: ModelRegistry, start: Any) -> None:
    running = start(served, http=HttpSettings(body_bytes=1000))
    try:
        with running.client() as client:
            body = json.dumps({"inputs": "w1 " * 1000}).encode()
            headers = {"content-type": "application/json"}
            checked(client.post("/embed", content=body, headers=headers), 413, "body_too_large")
            # In chunks, without a declared length.
            pieces = (body[n : n + 100] for n in range(0, len(body), 100))
            checked(client.post("/embed", content=pieces, headers=headers), 413, "body_too_large")
            assert client.post("/embed", json={"inputs": "w1"}).status_code == 200
    finally:
        running.stop()


def test_a_large_body_that_is_sent_whole_gets_its_answer(served: ModelRegistry, start: Any) -> None:
    body = b"x" * (8 << 20)
    head = b"POST /embed HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    declared = b"Content-Length: %d\r\n\r\n" % len(body) + body
    chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
    running = start(served, http=HttpSettings(body_bytes=1000))
    try:
        for request in (declared, chunked):
            with socket.create_connection(("127.0.0.1", int(running.url.rsplit(":", 1)[1]))) as place:
                place.settimeout(20)
                place.sendall(head + request)
                answer = place.recv(1 << 16)
                assert b" 413 " in answer.partition(b"\r\n")[0]
                assert b"body_too_large" in answer
                place.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")  # The connection can be used again.
                assert b" 200 " in place.recv(1 << 16).partition(b"\r\n")[0]
    finally:
        running.stop()


def test_a_client_that_closes_its_side_gets_its_answer(running: Any) -> None:
    body = b'{"inputs": "w1 w2"}'
    head = b"POST /embed HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(running.url.rsplit(":", 1)[1]))) as place:
        place.settimeout(20)
        place.sendall(head % len(body) + body)
        place.shutdown(socket.SHUT_WR)
        answer = place.makefile("rb").read()  # To its end: the server closes the connection.
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"]]")


def test_keys(served: ModelRegistry, start: Any) -> None:
    running = start(served, http=HttpSettings(keys=("first-key", "second-key")))
    try:
        with running.client() as client:
            for header in (None, "Bearer wrong", "Bearer", "Basic first-key", "first-key", "Bearer first-key2"):
                headers = {} if header is None else {"Authorization": header}
                response = client.post("/embed", json={"inputs": "w1"}, headers=headers)
                checked(response, 401, "invalid_api_key")
                assert response.headers["www-authenticate"] == "Bearer"
            checked(client.get("/metrics"), 401, "invalid_api_key")
            checked(client.get("/nowhere"), 401, "invalid_api_key")
            for key in ("first-key", "second-key"):
                headers = {"Authorization": f"Bearer {key}"}
                assert client.post("/embed", json={"inputs": "w1"}, headers=headers).status_code == 200
            assert client.get("/health/ready").status_code == 200
            assert client.get("/").status_code == 200
    finally:
        running.stop()
