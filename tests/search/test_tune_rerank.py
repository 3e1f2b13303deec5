"""The weight of a reranker is tuned without labels, stored in the index, and used by default."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from encodery.base.errors import ArtifactError, EmptyInput
from encodery.cli.search import app
from encodery.evaluate.systems import System
from encodery.evaluate.systems.index import IndexSystem
from encodery.search.build import build
from encodery.search.rerank.cross_encoder import CrossEncoder
from encodery.search.searcher import RERANK_WEIGHT, Searcher
from encodery.search.tune_rerank import RERANK_WEIGHTS, RerankWeight, rerank_weight_of, save_rerank_weight, tune_rerank


class Secrets:
    """Knows from which passage a sentence was taken, by a number that is part of a word in both; or does not."""

    def __init__(self, knows: bool) -> None:
        self.knows, self.rng = knows, np.random.default_rng(0)
        self.received: list[list[str]] = []

    def score(self, query: str, texts: Sequence[str]) -> np.ndarray:
        self.received.append(list(texts))
        if not self.knows:
            return self.rng.standard_normal(len(texts))
        return np.array([float(text.split("secret")[1][:3] == query.split("secret")[1][:3]) for text in texts])


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Eighty documents of four sentences that share some words."""
    rng = np.random.default_rng(1)
    lines = []
    for number in range(80):
        own = [f"w{n}" for n in rng.choice(300, 20)]
        made = [f"secret{number:03d}of{rng.integers(1 << 30)} {' '.join(rng.choice(own, 6))}." for _ in range(4)]
        lines.append(json.dumps({"text": " ".join(made)}))
    (tmp_path / "secret.jsonl").write_text("\n".join(lines))
    return tmp_path / "secret.jsonl"


@pytest.mark.parametrize("vectors", [True, False])
@pytest.mark.parametrize(("knows", "minimum", "maximum"), [(True, 0.2, 1.0), (False, 0.0, 0.15)])
def test_the_share_follows_what_the_reranker_knows(
    knows: bool, minimum: float, maximum: float, vectors: bool, secret: Path, tmp_path: Path, encoder: Any
) -> None:
    build([secret], tmp_path / "index", encoder if vectors else None)
    scorer, progress = Secrets(knows), list[tuple[int, int]]()
    with Searcher.open(tmp_path / "index", encoder) as searcher:
        tuned = tune_rerank(searcher, scorer, 60, lambda *done: progress.append(done))
        assert searcher.index.store.count() == 80, "the index itself is not touched"
        again = tune_rerank(searcher, Secrets(knows), 60)
    assert again == tuned
    assert tuned.queries == len(scorer.received) == 60
    assert progress[-1] == (60, 60)
    assert minimum <= tuned.weight <= maximum
    assert (tuned.curve["1.0"] > tuned.curve["0.0"]) is knows
    assert max(map(len, scorer.received)) <= 30
    whole = {json.loads(line)["text"] for line in secret.read_text().splitlines()}
    left = [text for texts in scorer.received for text in texts if text not in whole]
    short = {" ".join(some[:n] + some[n + 1 :]) for some in (one.split(". ") for one in whole) for n in range(4)}
    assert left, "some passages lack the sentence of their query"
    assert {text.replace(". ", " ").rstrip(".") for text in left} <= {text.replace(".", "") for text in short}


def test_an_index_with_too_little_text_is_refused(rows: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join(rows.read_text().splitlines()[:3]))
    build([few], tmp_path / "index", None)
    with Searcher.open(tmp_path / "index") as searcher, pytest.raises(EmptyInput, match="30 are needed"):
        tune_rerank(searcher, Secrets(True))


def test_shares_are_noted_by_folder(tmp_path: Path) -> None:
    index, one, other = tmp_path / "index", tmp_path / "one", tmp_path / "other"
    for folder in (index, one, other):
        folder.mkdir()
    assert rerank_weight_of(index, one) == RERANK_WEIGHT
    save_rerank_weight(index, one, RerankWeight(0.7, 50, {}))
    save_rerank_weight(index, other, RerankWeight(0.2, 50, {}))
    save_rerank_weight(index, one, RerankWeight(0.8, 50, {}))
    assert (rerank_weight_of(index, one), rerank_weight_of(index, other)) == (0.8, 0.2)
    for broken in ("{", "[]", '{"x": 3}', '{"x": {"weight": "much"}}'):
        (index / RERANK_WEIGHTS).write_text(broken)
        with pytest.raises(ArtifactError, match="damaged"):
            rerank_weight_of(index, one)


def test_the_command_line_finds_notes_and_takes_it(
    secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CrossEncoder, "open", lambda self: Secrets(True))
    index, model, query = tmp_path / "index", tmp_path / "model", "secret007 w1 w2 w3 w4 w5"
    build([secret], index, None)

    def run(*arguments: str) -> str:
        return CliRunner().invoke(app, [*arguments], catch_exceptions=False).stdout

    def scores(*more: str) -> list[float]:
        response = json.loads(run("query", str(index), query, "--rerank", str(model), "--json", *more))
        return [hit["score"] for hit in response["hits"]]

    before = scores()
    assert before == scores("--rerank-weight", "0.5")
    output = " ".join(run("tune-rerank", str(index), "--rerank", str(model), "--queries", "40").split())
    share = json.loads((index / RERANK_WEIGHTS).read_text())[str(model.resolve())]["weight"]
    assert f"is {share:.2f}." in output
    assert "of 40 sentences" in output
    assert share != RERANK_WEIGHT
    assert scores() == scores("--rerank-weight", str(share)) != before
    system: System = IndexSystem(path=str(index), rerank=str(model))
    opened: Any = system.open()
    assert opened._reranking is not None
    assert opened._reranking.weight == share
    opened.close()
    shown = run("query", str(index), query, "--rerank", str(model))
    assert "rerank" in shown.splitlines()[0]
