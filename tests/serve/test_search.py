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

from encodery.search.filters import parse
from encodery.search.index import build
from encodery.search.searcher import Answer, Searcher
from encodery.serve.models import Opening, open_all

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
    served = open_all(Opening((), str(index)))
    running = start(served)
    with running.client() as client:
        yield client
    running.stop()
    served.lanes["index/search"].searcher.close()


@pytest.fixture
def expected(index: Path) -> Answer:
    """What the library finds; an index is open to one at a time."""
    with Searcher(index) as searcher:
        return searcher.search("violin storm", conditions=parse(["year>=1991"]))


def test_passages_are_those_of_the_library(expected: Answer, searching: httpx.Client) -> None:
    found = searching.post("/search", json={"query": "violin storm", "filters": ["year>=1991"]}).json()["found"]
    assert [one["document"] for one in found] == ["d2", "d1"]
    assert [one["text"] for one in found] == [one.text for one in expected.found]
    assert [one["score"] for one in found] == pytest.approx([one.score for one in expected.found])
    assert searching.get("/health/ready").status_code == 200


def test_what_cannot_be_searched(searching: httpx.Client) -> None:
    for body, code in (
        ({"query": ""}, "empty_input"),
        ({"query": "storm", "mode": "dense"}, "invalid_input"),
        ({"query": "storm", "rerank": True}, "invalid_input"),
        ({"query": "storm", "filters": ["(("]}, "invalid_input"),
        ({"query": "storm", "top": 0}, "invalid_parameter"),
    ):
        response = searching.post("/search", json=body)
        assert (response.status_code, response.json()["error"]["code"]) == (400, code)
