"""Reranking: the first passages, and only those, in the order of a scorer; models of the task `rank` as scorers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from encodery.base.errors import ContractError, InputError, SettingsError
from encodery.base.settings import decode, encode
from encodery.cli.search import app
from encodery.finetune.predict import Predictor
from encodery.finetune.task_types import TaskMetadata
from encodery.finetune.tasks.classify import TextClassification
from encodery.finetune.tasks.rank import PassageRanking
from encodery.model.load import load_model
from encodery.search.build import IndexSettings, build
from encodery.search.passages import Passages
from encodery.search.rerank import Reranker
from encodery.search.rerank.cross_encoder import CrossEncoder
from encodery.search.results import SearchHit
from encodery.search.searcher import Reranking, Searcher
from encodery.tokens.tokenizer import Tokenizer


class Shortest:
    """Prefers short passages; records the texts that it received."""

    def __init__(self) -> None:
        self.received: list[str] = []

    def score(self, query: str, texts: Sequence[str]) -> np.ndarray:
        self.received = list(texts)
        return -np.array([len(text) for text in texts], np.float64)


class Bad:
    """Loses a text."""

    def score(self, query: str, texts: Sequence[str]) -> np.ndarray:
        return np.zeros(len(texts) - 1)


@pytest.fixture
def searcher(rows: Path, tmp_path: Path, encoder: Any) -> Iterator[Searcher]:
    build([rows], tmp_path / "index", encoder, IndexSettings(passages=Passages(size=40)))
    with Searcher.open(tmp_path / "index", encoder) as searcher:
        yield searcher


@pytest.mark.parametrize("mode", ["bm25", "dense", "hybrid"])
def test_only_the_first_passages_are_reranked(searcher: Searcher, mode: str) -> None:
    first = searcher.search("violin melody", top_k=20, mode=mode)
    scorer = Shortest()
    again = searcher.search("violin melody", top_k=5, mode=mode, reranking=Reranking(scorer, 20, 1))
    texts = [hit.text for hit in first.hits]
    assert scorer.received == texts
    assert [len(hit.text) for hit in again.hits] == sorted(map(len, texts))[:5]
    assert [hit.rank for hit in again.hits] == [1, 2, 3, 4, 5]
    before = {hit.text: hit for hit in first.hits}
    for hit in again.hits:
        assert hit.rerank == -len(hit.text)
        assert hit.score == pytest.approx((max(map(len, texts)) - len(hit.text)) / np.ptp([*map(len, texts)]))
        assert hit.bm25 == before[hit.text].bm25
        assert hit.dense == before[hit.text].dense
    assert "rerank" in again.seconds
    assert "rerank" not in first.seconds
    assert all(hit.rerank is None for hit in first.hits)


@pytest.mark.parametrize("mode", ["bm25", "hybrid"])
def test_the_last_word_is_shared(searcher: Searcher, mode: str) -> None:
    def search(**share: float) -> tuple[SearchHit, ...]:
        return searcher.search("violin melody", 12, mode, reranking=Reranking(Shortest(), 12, **share)).hits

    first = searcher.search("violin melody", 12, mode).hits
    scores, lengths = np.array([hit.score for hit in first]), np.array([len(hit.text) for hit in first])
    by_first, by_other = (scores - scores.min()) / np.ptp(scores), (lengths.max() - lengths) / np.ptp(lengths)
    for share in (0.3, 0.5):
        mixed = dict(zip([hit.text for hit in first], (1 - share) * by_first + share * by_other, strict=True))
        hits = search(weight=share)
        assert [hit.score for hit in hits] == pytest.approx(sorted(mixed.values(), reverse=True))
        assert [hit.score for hit in hits] == pytest.approx([mixed[hit.text] for hit in hits])
    assert search() == hits, "half and half is the default"
    assert [hit.text for hit in search(weight=0)] == [hit.text for hit in first]
    assert len({tuple(hit.text for hit in search(weight=share)) for share in (0, 0.5, 1)}) == 3


def test_at_least_top_are_read_and_one_a_document(searcher: Searcher) -> None:
    scorer = Shortest()
    hits = searcher.search("violin melody", top_k=10, per_document=1, reranking=Reranking(scorer, 3)).hits
    assert len(scorer.received) == len({f.document for f in hits}) == 10


def test_no_hits_are_not_reranked(searcher: Searcher) -> None:
    assert searcher.search("zzzz", mode="bm25", reranking=Reranking(Bad())).hits == ()
    with pytest.raises(ContractError, match="one finite score"):
        searcher.search("violin", reranking=Reranking(Bad()))
    with pytest.raises(InputError, match="rerank_top_k"):
        Reranking(Shortest(), top_k=0)
    for share in (-0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match="between 0 and 1"):
            Reranking(Shortest(), weight=share)


@pytest.fixture
def saved(word_tokenizer: Callable[..., Tokenizer], tuned_model: Callable[..., Path]) -> Callable[..., Path]:
    """`saved(folder, task, known)`: a small random model with a task's head, that reads 24 tokens."""
    return lambda folder, *more: tuned_model(folder, word_tokenizer(["red", "one", "cat", "two", "dog", "sun"]), *more)


def test_a_model_of_the_task_rank_scores_passages_of_any_length(saved: Callable[..., Path], tmp_path: Path) -> None:
    folder = saved(tmp_path, PassageRanking(), TaskMetadata())
    scorer = CrossEncoder(model=str(folder)).open()
    short = ["one red cat", "", "two dog"]
    scores = scorer.score("red", [*short, "sun " * 60 + "red"])
    assert scores.shape == (4,)
    assert np.isfinite(scores).all()
    plain = Predictor.from_model(load_model(folder), "cpu")
    np.testing.assert_allclose(scores[:3], plain.score("red", short), atol=1e-5)
    with pytest.raises(InputError):
        plain.score("red", ["sun " * 60])


def test_another_task_or_none_is_refused(saved: Callable[..., Path], tmp_path: Path) -> None:
    folder = saved(
        tmp_path, TextClassification(), TextClassification().fit_labels({"text": ["one", "two"], "label": ["a", "b"]})
    )
    with pytest.raises(InputError, match="'classify'"):
        CrossEncoder(model=str(folder)).open()
    with pytest.raises(SettingsError, match="model"):
        CrossEncoder(model="")
    part = CrossEncoder(model="x")
    assert decode(Reranker, encode(part)) == part


def test_the_command_line_shows_every_stage(saved: Callable[..., Path], rows: Path, tmp_path: Path) -> None:
    model = saved(tmp_path, PassageRanking(), TaskMetadata())
    build([rows], tmp_path / "index", None)
    command = [
        "query",
        str(tmp_path / "index"),
        "violin",
        "--rerank",
        str(model),
        "--rerank-top-k",
        "6",
        "--top-k",
        "3",
    ]
    command += ["--rerank-weight", "1"]
    response = json.loads(CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False).stdout)
    ranked = [hit["rerank"] for hit in response["hits"]]
    assert len(ranked) == 3
    assert ranked == sorted(ranked, reverse=True)
    assert all(hit["bm25"] > 0 and hit["dense"] is None for hit in response["hits"])
    assert response["seconds"]["rerank"] > 0
    shown = CliRunner().invoke(app, command, catch_exceptions=False).stdout
    assert "bm25" in shown
    assert "rerank" in shown
    compacted = CliRunner().invoke(app, ["compact", str(tmp_path / "index")], catch_exceptions=False)
    assert "MB" in compacted.stdout
