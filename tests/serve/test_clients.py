"""The real `openai` client, the document that tools read, the page, and what is counted."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("openai")
import openai

from encodery.encoders.dense import DenseEncoder
from encodery.model.load import LoadedModel


@pytest.fixture
def ai(running: Any) -> Any:
    with openai.OpenAI(api_key="none", base_url=f"{running.url}/v1", max_retries=0) as result:
        yield result


def test_the_openai_client(ai: openai.OpenAI, base: LoadedModel) -> None:
    texts = ["w1 w2", "w3"]
    expected = DenseEncoder.from_loaded(base).encode(texts).vectors
    plain = ai.embeddings.create(model="words", input=texts, encoding_format="float")
    usual = ai.embeddings.create(model="words", input=texts)  # This client asks for base64 and decodes it.
    for result in (plain, usual):
        assert np.allclose([one.embedding for one in result.data], expected, atol=1e-5)
        assert result.usage.total_tokens == 7
    assert len(ai.embeddings.create(model="words", input="w1", dimensions=8).data[0].embedding) == 8
    assert "words" in [model.id for model in ai.models.list()]
    assert ai.models.retrieve("tags").id == "tags"


@pytest.mark.parametrize("threads", [1, 8, 64])
def test_the_openai_client_at_any_concurrency(ai: openai.OpenAI, base: LoadedModel, threads: int) -> None:
    texts = [" ".join(f"w{(7 * n + k) % 100}" for k in range(1 + n % 25)) for n in range(70)]
    expected = DenseEncoder.from_loaded(base).encode(texts).vectors

    def ask(first: int) -> np.ndarray:
        some = texts[first : first + 1 + first % 4]
        return np.array([one.embedding for one in ai.embeddings.create(model="words", input=some).data])

    with ThreadPoolExecutor(threads) as pool:
        for first, rows in enumerate(pool.map(ask, range(len(texts)))):
            assert np.allclose(rows, expected[first : first + len(rows)], atol=1e-5)


def test_connections_are_kept_longer_than_by_the_client(running: Any) -> None:
    theirs = openai.DEFAULT_CONNECTION_LIMITS.keepalive_expiry
    assert theirs is not None
    assert running.server.config.timeout_keep_alive > 2 * theirs


def test_the_openai_client_understands_errors(ai: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        ai.embeddings.create(model="other", input="w1")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        ai.embeddings.create(model="words", input="w1 " * 100)
    assert long.value.code == "input_too_long"


def test_headers_have_times_and_tokens(client: httpx.Client) -> None:
    headers = client.post("/embed", json={"inputs": ["w1 w2", "w3"]}).headers
    assert headers["x-compute-tokens"] == "7"
    assert headers["x-dropped-tokens"] == "0"
    for name in ("x-total-time", "x-compute-time", "x-tokenization-time", "x-queue-time", "x-inference-time"):
        assert float(headers[name]) >= 0


def test_metrics(client: httpx.Client) -> None:
    client.post("/embed", json={"inputs": "w1 " * 60, "truncate": "right"})
    client.post("/embed", json={"inputs": ""})
    message = client.get("/metrics").text
    dropped = re.search(r'encodery_dropped_tokens_total\{endpoint="words/embed"\} (\S+)', message)
    assert dropped is not None
    assert float(dropped[1]) >= 30
    assert 'encodery_responses_total{code="empty_input",route="/embed",status="400"}' in message
    assert 'encodery_stage_seconds_count{endpoint="words/embed",stage="run"}' in message
    assert "encodery_padding_tokens 0.0" in message


def test_every_route_is_in_the_document(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    expected_value = "/v1/embeddings /v1/models /v1/rerank /v2/rerank /embed /embed_all /embed_sparse /rerank /predict"
    expected_value += " /similarity /tokenize /info /fill /tag /answer /search /health/live /health/ready /metrics"
    assert set(expected_value.split()) <= set(paths)


def test_the_document_lists_the_errors(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert "HTTPValidationError" not in document["components"]["schemas"]
    for path in document["paths"].values():
        for operation in path.values():
            assert "422" not in operation["responses"]
    rejected = document["paths"]["/embed"]["post"]["responses"]["400"]["content"]["application/json"]["schema"]
    assert rejected == {"$ref": "#/components/schemas/ErrorBody"}


def test_the_page_loads_nothing_from_other_hosts(client: httpx.Client) -> None:
    for path in ("/", "/docs"):
        page = client.get(path)
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        for link in re.findall(r'(?:src|href)="([^"]+)"', page.text):
            assert link.startswith(("/page.", "data:"))
            assert link.startswith("data:") or client.get(link).status_code == 200


def test_info_has_the_limits(client: httpx.Client) -> None:
    models = {one["id"]: one for one in client.get("/info").json()["models"]}
    assert models["words"]["operations"]["embed"]["dimensions"] == [8, 16]
    assert models["words"]["operations"]["embed"]["max_length"] == 32
    assert models["classes"]["operations"]["predict"]["labels"] == ["no", "yes"]
