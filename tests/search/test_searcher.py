"""Queries: modes, filters, fusion and the fields of a hit; weights that are estimated from the documents."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from encodery.base.errors import EmptyInput, InputError
from encodery.encoders import TextEncoder
from encodery.encoders.embeddings import DenseEmbeddings
from encodery.encoders.postprocess.normalise import Normalise
from encodery.encoders.postprocessing import PostProcessing
from encodery.search.build import IndexSettings, build
from encodery.search.calibrate import _reciprocal_ranks_of_query, best_weight, calibrate, combined_weights
from encodery.search.engine.edge import Edge
from encodery.search.excerpt import excerpt
from encodery.search.filters import parse
from encodery.search.fuse import min_max_scaled, reciprocal_rank_fusion, weighted_sum
from encodery.search.passages import Passages
from encodery.search.retrievers.dense import DenseRetriever
from encodery.search.searcher import Searcher
from encodery.search.store import Point


@pytest.fixture
def searcher(rows: Path, tmp_path: Path, encoder: Any) -> Iterator[Searcher]:
    build([rows], tmp_path / "index", encoder, IndexSettings(passages=Passages(size=40)))
    with Searcher.open(tmp_path / "index", encoder) as searcher:
        yield searcher


def test_modes_and_what_each_hit_shows(searcher: Searcher) -> None:
    words = searcher.search("violin orchestra", mode="bm25")
    assert {hit.metadata["topic"] for hit in words.hits} == {"music"}
    assert all(hit.dense is None and hit.bm25 == hit.score for hit in words.hits)
    dense = searcher.search("violin orchestra", mode="dense")
    assert sum(hit.metadata["topic"] == "music" for hit in dense.hits) >= 8
    assert all(hit.bm25 is None and hit.dense == hit.score for hit in dense.hits)
    both = searcher.search("violin orchestra")
    assert both.mode == "hybrid"
    assert all(hit.bm25 is not None and hit.dense is not None for hit in both.hits)
    assert [hit.rank for hit in both.hits] == list(range(1, 11))
    assert [hit.score for hit in both.hits] == sorted((hit.score for hit in both.hits), reverse=True)
    assert set(both.seconds) == {"encode", "bm25", "dense", "fuse", "show"}


def test_hybrid_scores_are_those_of_each_side(searcher: Searcher) -> None:
    everything = 500
    words = {f.text: f.bm25 for f in searcher.search("violin wind", top_k=everything, mode="bm25").hits}
    vectors = {f.text: f.dense for f in searcher.search("violin wind", top_k=everything, mode="dense").hits}
    for hit in searcher.search("violin wind", top_k=50).hits:
        assert hit.bm25 == pytest.approx(words.get(hit.text, 0.0), abs=1e-5)
        assert hit.dense == pytest.approx(vectors[hit.text], abs=1e-5)


@pytest.mark.parametrize("fusion", ["scores", "ranks"])
def test_the_ends_of_the_weight_are_the_two_sides(searcher: Searcher, fusion: Any) -> None:
    query = "violin storm mark3x1"
    texts = {mode: [f.text for f in searcher.search(query, mode=mode, top_k=5).hits] for mode in ("bm25", "dense")}
    assert [f.text for f in searcher.search(query, top_k=5, weight=0.0, fusion=fusion).hits] == texts["bm25"]
    assert [f.text for f in searcher.search(query, top_k=5, weight=1.0, fusion=fusion).hits] == texts["dense"]


def test_filters_hold_in_every_mode(searcher: Searcher) -> None:
    for mode in ("bm25", "dense", "hybrid"):
        hits = searcher.search(
            "violin harbour", top_k=40, mode=mode, conditions=parse(["topic=music", "year>=1995"])
        ).hits
        assert hits
        assert all(f.metadata["topic"] == "music" and f.metadata["year"] >= 1995 for f in hits)


def test_a_field_that_no_document_has_is_reported(searcher: Searcher) -> None:
    assert searcher.unknown_fields(parse(["topic=none such", "document=a", "year>=3000"])) == ""
    assert searcher.unknown_fields(()) == ""
    assert "a field 'topics'. Did you mean 'topic'" in searcher.unknown_fields(parse(["topics=music"]))


def test_the_passages_per_document_are_limited(searcher: Searcher) -> None:
    hits = searcher.search("violin melody", top_k=10, per_document=1).hits
    assert len({f.document for f in hits}) == len(hits) == 10


def test_invalid_queries_are_refused(searcher: Searcher) -> None:
    with pytest.raises(EmptyInput, match="empty"):
        searcher.search("  ")
    with pytest.raises(InputError, match="'hybrid'"):
        searcher.search("x", mode="hybird")
    with pytest.raises(InputError, match="top_k = 0"):
        searcher.search("x", top_k=0)
    with pytest.raises(InputError, match="weight"):
        searcher.search("x", weight=2.0)
    with pytest.raises(InputError, match="fusion"):
        searcher.search("x", fusion="mean")


def test_unknown_terms_leave_only_the_embeddings(searcher: Searcher) -> None:
    assert searcher.search("zzzz", mode="bm25").hits == ()
    assert len(searcher.search("zzzz").hits) == 10


def test_an_index_without_a_model(rows: Path, tmp_path: Path) -> None:
    build([rows], tmp_path / "words", None)
    with Searcher.open(tmp_path / "words") as searcher:
        searcher.warm_up()
        assert searcher.search("violin").mode == "bm25"
        with pytest.raises(InputError, match="without a model"):
            searcher.search("violin", mode="hybrid")


class Knowing(TextEncoder):
    """Vectors that tell a passage by its secret number, or nothing at all."""

    kind, dimension, fingerprint, max_content_tokens = "dense", 16, "knowing", 64
    prompts: ClassVar[dict[str, str]] = {}
    tokenizer: Any = None

    def __init__(self, knows: bool) -> None:
        self.knows = knows
        self.rng = np.random.default_rng(0)

    def encode(self, texts: Any, truncate: str = "error", *_: Any, **__: Any) -> DenseEmbeddings:
        numbers = [int(text.split("secret")[1][:3]) for text in texts]
        if not self.knows:
            numbers = self.rng.integers(0, 1 << 30, len(texts)).tolist()
        vectors = [np.random.default_rng(number).standard_normal(self.dimension) for number in numbers]
        return DenseEmbeddings(np.array(vectors, np.float32), np.ones(len(texts)), np.zeros(len(texts)))


@pytest.mark.parametrize(("knows", "minimum", "maximum"), [(True, 0.15, 0.5), (False, 0.0, 0.05)])
def test_the_weight_follows_what_the_vectors_know(knows: bool, minimum: float, maximum: float) -> None:
    """The sentences of a passage have some words in common; each also has a word with the passage's number, which only
    a model could use."""
    rng = np.random.default_rng(1)
    texts = []
    for i in range(80):
        own = [f"w{n}" for n in rng.choice(300, 20)]
        texts.append(
            " ".join(f"secret{i:03d}of{rng.integers(1 << 30)} {' '.join(rng.choice(own, 6))}." for _ in range(4))
        )
    sample = [Point(str(i), 0, text, None, {"head": 0}) for i, text in enumerate(texts)]
    encoder: Any = Knowing(knows)
    finishing = PostProcessing((Normalise(),), ({},))
    vectors = finishing.apply(encoder.encode(texts).vectors)
    sample = [dataclasses.replace(point, dense=vector) for point, vector in zip(sample, vectors, strict=True)]
    calibration = calibrate(sample, [DenseRetriever(encoder, finishing)], Edge(language="none"))
    assert calibration.queries == 80
    assert calibration.curves is not None
    curve = calibration.curves["dense"]
    assert curve["0.0"] > 0.4
    assert (curve["1.0"] > curve["0.0"]) is knows
    assert minimum <= calibration.weight <= maximum


def test_a_retriever_with_equal_scores_has_no_weight() -> None:
    words = [{str(place): float(place == query) for place in range(30)} for query in range(30)]
    ranks = np.array(
        [
            _reciprocal_ranks_of_query(query_scores, np.zeros(30), query, True)
            for query, query_scores in enumerate(words)
        ]
    )
    assert ranks[:, 0].tolist() == [1.0] * 30
    assert ranks[:, -1].tolist() == [0.0] * 30, "the middle of 30 equals is not the first"
    assert best_weight(ranks) == 0.0


def test_a_weight_is_as_sure_as_its_queries() -> None:
    """Of two weights that are as good as each other neither is jumped to; a clear best one is halved."""
    clear, even = np.zeros((40, 11)), np.zeros((40, 11))
    clear[:, 6] = 1.0
    even[::2, 2] = even[1::2, 8] = 1.0
    assert best_weight(clear) == 0.3
    assert 0.15 < best_weight(even) < 0.35
    assert best_weight(np.ones((40, 11))) == 0.0


def test_a_retriever_without_weight_is_not_queried(rows: Path, tmp_path: Path, encoder: Any) -> None:
    build([rows], tmp_path / "index", encoder)
    with Searcher.open(tmp_path / "index", encoder) as searcher:
        assert "dense" not in searcher.search("violin", mode="hybrid", weight=0.0).seconds
        assert "bm25" not in searcher.search("violin", mode="hybrid", weight=1.0).seconds
        both = searcher.search("violin", mode="hybrid", weight=0.5)
        assert {"bm25", "dense"} <= set(both.seconds)


def test_too_few_queries_give_the_fallback() -> None:
    sample = [Point("a", 0, "secret001 is one. secret001 is two. secret001 is three.", None)]
    encoder: Any = Knowing(True)
    finishing = PostProcessing((Normalise(),), ({},))
    calibration = calibrate(sample, [DenseRetriever(encoder, finishing)], Edge())
    assert (calibration.weight, calibration.curves) == (0.2, None)


def test_mixtures_by_hand() -> None:
    assert reciprocal_rank_fusion([["a", "b"], ["b"]], (0.5, 0.5), offset=1) == {
        "a": 0.25,
        "b": pytest.approx(1 / 6 + 0.25),
    }
    words, vectors = min_max_scaled({"a": 4.0, "b": 1.0}, True), min_max_scaled({"a": -1.0, "b": 1.0, "c": 0.0}, False)
    mixed = weighted_sum([words, vectors], [0.75, 0.25])
    assert mixed == {"a": 0.75, "b": pytest.approx(0.75 / 4 + 0.25), "c": pytest.approx(0.125)}
    assert min_max_scaled({}, False) == {}
    assert min_max_scaled({"a": 0.0}, True) == min_max_scaled({"a": 2.0}, False) == {"a": 0.0}


def test_odds_of_several_models_are_put_together() -> None:
    assert combined_weights({"dense": 0.25}) == {"bm25": 0.75, "dense": 0.25}
    assert combined_weights({"dense": 0.5, "multi_vector": 0.5}) == dict.fromkeys(
        ("bm25", "dense", "multi_vector"), 0.3333
    )
    assert combined_weights({"dense": 0.0, "sparse": 0.2}) == {"bm25": 0.8, "dense": 0.0, "sparse": 0.2}


def test_an_excerpt_shows_where_the_matches_are() -> None:
    text = "filler " * 50 + "the needle\nstands here " + "filler " * 50
    at = text.index("needle")
    short, spans = excerpt(text, [(0, 6), (at, at + 6), (at + 7, at + 13)], 80)
    assert len(short) <= 82
    assert [short[a:b] for a, b in spans] == ["needle", "stands"]
    assert short.startswith("…")
    assert short.endswith("…")
    assert "\n" not in short
    assert excerpt("short", [(0, 5)], 80) == ("short", [(0, 5)])
    assert excerpt("x" * 300, [], 80)[0] == "x" * 80 + "…"


def test_reciprocal_rank_fusion_adds_60_to_every_rank() -> None:
    scores = reciprocal_rank_fusion([["a", "b"], ["b"]], (0.25, 0.75))
    assert scores == pytest.approx({"a": 0.25 / 61, "b": 0.25 / 62 + 0.75 / 61})


@pytest.mark.parametrize(("top_k", "per_document", "limit"), [(10, None, 100), (30, None, 120), (10, 1, 400)])
def test_every_retriever_gives_four_candidates_per_hit_and_at_least_100(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch, top_k: int, per_document: int | None, limit: int
) -> None:
    limits = []
    search_bm25 = searcher.index.store.search_bm25

    def recorded(text: str, limit: int, *rest: Any) -> Any:
        limits.append(limit)
        return search_bm25(text, limit, *rest)

    monkeypatch.setattr(searcher.index.store, "search_bm25", recorded)
    searcher.search("violin", top_k=top_k, mode="bm25", per_document=per_document)
    assert limits == [limit]
