"""Requests made from the OpenAPI document, by schemathesis: nothing breaks the server, every refusal is enveloped."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("schemathesis")
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

FEW, MANY = 8, 1500  # cases of each operation of the document


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def fuzz(running: Any, count: int) -> int:
    """How many requests were made."""
    with running.client() as client:
        document = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    seen = 0
    quiet = settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    for found in document.get_all_operations():

        def check(case: Any) -> None:
            nonlocal seen
            seen += 1
            response = case.call(base_url=running.url, timeout=20)
            assert response.status_code < 500, response.text
            if response.status_code >= 400:
                error = response.json()["error"]
                assert set(error) == {"message", "type", "param", "code"}
                assert isinstance(error["code"], str)

        quiet(given(case=found.ok().as_strategy())(check))()
    return seen


def test_some_requests_of_every_route(running: Any) -> None:
    assert fuzz(running, FEW) >= 20 * FEW // 2
    assert running.engine.requests == 0


@pytest.mark.slow
def test_many_requests_of_every_route(running: Any) -> None:
    assert fuzz(running, MANY) >= 20_000
    assert running.engine.requests == 0
