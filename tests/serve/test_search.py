"""`/search` over an index of words, beside what the library finds in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("qdrant_edge", reason="the extra `search` is not installed")

from encodery.search.build import build
from encodery.search.filters import parse
from encodery.search.results import SearchResult
from encodery.search.searcher import Searcher
from encodery.serve.models import ServeSettings, open_models
from encodery.serve.search_model import SearchModel
from encodery.serve.served_model import InferenceRequest

TEXTS = ["The violin was tuned before the concert.", "A storm broke over the harbour.", "Violin and storm together."]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    rows = [{"id": f"d{n}", "text": text, "year": 1990 + n} for n, text in enumerate(TEXTS)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    build([file], tmp_path / "index", None)
    return tmp_path / "index"


@pytest.fixture
def searching(index: Path, start: Any) -> Iterator[httpx.Client]:
    served = open_models(ServeSettings((), str(index)))
    running = start(served)
    with running.client() as client:
        yield client
    running.stop()
    served.models["index/search"].searcher.close()


@pytest.fixture
def expected(index: Path) -> SearchResult:
    """What the library finds; an index is open to one at a time."""
    with Searcher.open(index) as searcher:
        return searcher.search("violin storm", conditions=parse(["year>=1991"]))


def test_hits_equal_those_of_the_library(expected: SearchResult, searching: httpx.Client) -> None:
    result = searching.post("/search", json={"query": "violin storm", "filters": ["year>=1991"]}).json()["hits"]
    assert [one["document"] for one in result] == ["d2", "d1"]
    assert [one["text"] for one in result] == [one.text for one in expected.hits]
    assert [one["score"] for one in result] == pytest.approx([one.score for one in expected.hits])
    assert searching.get("/health/ready").status_code == 200


def test_a_long_query_is_refused_and_a_repeated_word_is_no_load(searching: httpx.Client) -> None:
    assert searching.post("/search", json={"query": "storm " * 300}, timeout=5).status_code == 200
    response = searching.post("/search", json={"query": "storm " * 4000})
    assert response.status_code == 400
    assert "2000" in response.json()["error"]["message"].replace(",", "")


def test_null_is_absent(searching: httpx.Client) -> None:
    body = {"query": "violin storm", "top_k": None, "mode": None, "filters": None, "fusion": None, "rerank_top_k": None}
    plain = searching.post("/search", json={"query": "violin storm"}).json()["hits"]
    assert searching.post("/search", json=body).json()["hits"] == plain
    assert searching.post("/search", json={"query": None}).status_code == 400


def test_invalid_searches_are_refused(searching: httpx.Client) -> None:
    for body, code in (
        ({"query": ""}, "empty_input"),
        ({"query": "storm", "mode": "dense"}, "invalid_input"),
        ({"query": "storm", "rerank": True}, "invalid_input"),
        ({"query": "storm", "filters": ["(("]}, "invalid_input"),
        ({"query": "storm", "top_k": 0}, "invalid_parameter"),
        ({"query": "storm", "weights": {"bm52": 1.0}}, "invalid_input"),
        ({"query": "storm", "weights": {"bm25": -1.0}}, "invalid_parameter"),
        ({"query": "storm", "weights": {"bm25": 1.0}, "weight": 0.5}, "invalid_input"),
    ):
        response = searching.post("/search", json=body)
        assert (response.status_code, response.json()["error"]["code"]) == (400, code)
    stored = searching.post("/search", json={"query": "storm", "weights": {"bm52": 1.0}}).json()["error"]["message"]
    assert "'bm52' is no mode of the index. Did you mean 'bm25'?" in stored


def test_weights_by_mode_reach_the_searcher() -> None:
    class Noting:
        def search(self, query: str, **options: Any) -> dict[str, Any]:
            return options

    model = SearchModel(Noting())  # type: ignore[arg-type]
    shares = {"bm25": 0.25, "dense": 0.75}
    for options, weight in (({"weights": shares, "weight": None}, shares), ({"weight": 0.5, "weights": None}, 0.5)):
        reading = model.tokenize(InferenceRequest("index", "search", {"query": "storm"}, options))
        assert model.run(reading.units)[0]["weight"] == weight
