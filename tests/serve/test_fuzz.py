"""Requests made from the OpenAPI document, by schemathesis: nothing breaks the server, every refusal is enveloped.

Half of them are as the document says, half break it in one place. In most of the former, fields have values that the
models can use, since an unknown name or an empty text is refused before anything else is looked at.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("schemathesis")
pytest.importorskip("qdrant_edge", reason="the extra `search` is not installed")
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.specs.openapi import checks

from encodery.search.build import build
from encodery.serve.models import ServeSettings, open_models

FEW, MANY = 8, 1500  # cases of each operation of the document
VALUES: dict[str, list[Any]] = {
    "dimensions": [None, 8, 16, 32],
    "prompt_name": [None, "query"],
    "types": [None],
    "mode": [None, "bm25"],
    "weights": [None],
    "rerank": [None, False],
    "filters": [[], ["year>=1995"]],
    "truncate": [True, "right", "left", "chunk"],
}
ABLE = {
    "EmbeddingsBody": ["words"],
    "EmbedBody": ["words", None],
    "TextsBody": ["words", "sparse", None],
    "SimilarityBody": ["words", None],
    "TeiRerankBody": ["ranker", None],
    "RerankBody": ["ranker", None],
    "PredictBody": ["classes", None],
    "TokenizeBody": ["words", "tags", "spans", None],
    "FillBody": ["words", None],
    "TagBody": ["tags", None],
    "AnswerBody": ["spans", None],
    "HeadsBody": [],
    "EmbedHead": ["words", None],
    "StatesHead": ["words", None],
    "PredictHead": ["classes", None],
    "TagHead": ["tags", None],
    "SearchBody": [],
}
load_all_checks()
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def everything(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, start: Any) -> Iterator[Any]:
    """A server of all models, and an index."""
    room = tmp_path_factory.mktemp("fuzz")
    rows = [{"id": f"d{n}", "text": f"w{n} w{n + 1} w{n + 2}", "year": 1990 + n} for n in range(20)]
    (room / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    build([room / "rows.jsonl"], room / "index", None)
    served = open_models(ServeSettings(tuple(f"{name}={path}" for name, path in folders.items()), str(room / "index")))
    result = start(served)
    yield result
    result.stop()
    served.models["index/search"].searcher.close()


def usable(document: dict[str, Any]) -> dict[str, Any]:
    """The document with values that can be used, so that requests come through to the models."""
    for name, schema in document["components"]["schemas"].items():
        for field, values in {**VALUES, "model": ABLE.get(name, ["words"])}.items():
            if field in schema.get("properties", {}):
                schema["properties"][field] = {"enum": values}
        if name in ABLE or name == "SimilarityInputs":
            _filled(schema)
    fill = document["components"]["schemas"]["FillBody"]["properties"]["inputs"]
    fill["anyOf"][0] = fill["anyOf"][1]["items"] = {"type": "string", "pattern": "^[a-z ]{0,9}\\[MASK\\][a-z ]{0,9}$"}
    return document


def _filled(schema: Any) -> None:
    """Neither empty texts nor empty lists."""
    if isinstance(schema, dict):
        kind = schema.get("type")
        if kind in ("string", "array") and "enum" not in schema:
            schema["minLength" if kind == "string" else "minItems"] = 1
        for part in schema.values():
            _filled(part)
    elif isinstance(schema, list):
        for part in schema:
            _filled(part)


DOCUMENTS = (
    (usable, {GenerationMode.POSITIVE: 0.5}),
    (dict, {GenerationMode.POSITIVE: 0.2, GenerationMode.NEGATIVE: 0.3}),
)


def fuzz(running: Any, count: int) -> Counter[tuple[str, int]]:
    """How many requests of each operation had which status."""
    with running.client() as client:
        plain = client.get("/openapi.json").json()
    seen: Counter[tuple[str, int]] = Counter()

    def check(case: Any) -> None:
        response = case.call(base_url=running.url, timeout=20)
        seen[f"{case.method} {case.path}", response.status_code] += 1
        case.validate_response(response, checks=CHECKS)
        if response.status_code >= 400:
            error = response.json()["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert isinstance(error["code"], str)

    for document, modes in DOCUMENTS:
        whole = document(json.loads(json.dumps(plain)))
        for result in schemathesis.openapi.from_dict(whole).get_all_operations():
            operation = result.ok()
            for mode, share in modes.items():
                quiet = settings(
                    max_examples=max(1, round(count * share)),
                    deadline=None,
                    database=None,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )
                if mode is GenerationMode.POSITIVE or operation.body:
                    quiet(given(case=operation.as_strategy(mode))(check))()
    return seen


def stored(seen: Counter[tuple[str, int]]) -> None:
    """A line an operation, for pytest's -s."""
    for name in dict.fromkeys(name for name, _ in seen):
        print(name, {status: count for (one, status), count in sorted(seen.items()) if one == name})


def test_some_requests_of_every_route(everything: Any) -> None:
    assert fuzz(everything, FEW).total() >= 20 * FEW // 2
    assert everything.engine.requests == 0


@pytest.mark.slow
def test_many_requests_of_every_route(everything: Any) -> None:
    seen = fuzz(everything, MANY)
    stored(seen)
    assert seen.total() >= 20_000
    assert everything.engine.requests == 0
