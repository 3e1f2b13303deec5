"""The parts of the search page: marks, addresses, bars and the form."""

from __future__ import annotations

import re
from typing import Any

import pytest

from encodery.search.page.view import IndexFacts, address, marked, search_page
from encodery.search.results import SearchHit, SearchResult

FACTS = IndexFacts(
    name="letters", documents=2, passages=3, modes=("bm25",), weights={"bm25": 1.0}, reranker=None, rerank_weight=0.5
)


def hit(rank: int, score: float, **changes: Any) -> SearchHit:
    fields: dict[str, Any] = dict.fromkeys(("bm25", "dense", "sparse", "multi_vector", "rerank"))
    fields |= {"document": f"d{rank}", "number": 0, "text": "the <b> storm", "start": 0, "end": 13, "head": 0}
    return SearchHit(**fields | {"rank": rank, "score": score, "metadata": {}, "matches": ()} | changes)


def bars(page: str, stage: str) -> list[float]:
    """The widths of the bars of one stage."""
    return [float(width) for width in re.findall(rf'bar s-{stage}".*?<rect[^>]*>\s*<rect[^>]*width="([\d.]+)"', page)]


def test_spans_are_marked_and_overlaps_are_skipped() -> None:
    assert str(marked("a <storm> at sea", [(2, 9), (3, 8), (13, 16)])) == (
        "a <mark>&lt;storm&gt;</mark> at <mark>sea</mark>"
    )
    assert str(marked("abc", [(1, 9)])) == "abc"


def test_an_address_keeps_fields_and_replaces_some() -> None:
    fields = {"q": ["a b"], "filter": ["x=1", "y=2"], "top_k": ["5"]}
    assert address("/", fields, top_k=10) == "/?q=a+b&filter=x%3D1&filter=y%3D2&top_k=10"
    assert address("/", fields, filter=None, top_k=None) == "/?q=a+b"


def test_bars_are_relative_to_the_best_score() -> None:
    hits = (hit(1, 4.0, bm25=4.0), hit(2, 1.0, bm25=1.0))
    page = search_page(FACTS, {"q": ["storm"]}, SearchResult("storm", "bm25", hits, {"bm25": 0.001}))
    assert bars(page, "bm25") == pytest.approx([100.0, 25.0])
    assert "s-score" not in page, "the only stage is the score"


def test_a_mixed_score_has_a_bar_and_negative_scores_begin_at_the_lowest() -> None:
    hits = (hit(1, 1.0, dense=0.5, bm25=2.0), hit(2, 0.2, dense=-0.5, bm25=0.0))
    page = search_page(FACTS, {"q": ["storm"]}, SearchResult("storm", "hybrid", hits, {"dense": 0.001}))
    assert bars(page, "dense") == pytest.approx([100.0, 0.0])
    assert bars(page, "score") == pytest.approx([100.0, 20.0])


def test_text_of_passages_is_escaped() -> None:
    page = search_page(FACTS, {"q": ["<script>"]}, SearchResult("<script>", "bm25", (hit(1, 1.0, bm25=1.0),), {}))
    assert "&lt;b&gt;" in page
    assert "<script>" not in page.replace('<script src="/page.js" defer="">', "")


def test_the_form_offers_a_weight_only_with_a_model() -> None:
    assert 'name="weight"' not in search_page(FACTS, {}, None)
    hybrid = IndexFacts(
        name="letters",
        documents=2,
        passages=3,
        modes=("hybrid", "dense", "bm25"),
        weights={"bm25": 0.7, "dense": 0.3},
        reranker="ranker",
        rerank_weight=0.25,
    )
    page = search_page(hybrid, {}, None)
    assert 'placeholder="0.30"' in page
    assert 'placeholder="0.25"' in page
