"""Reranking by term weights: exact scores, each passage encoded once, stored weights that need no model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from encodery.base.errors import ArtifactError, EmptyInput, SettingsError
from encodery.base.settings import decode, encode
from encodery.cli.search import app
from encodery.encoders.embeddings import SparseEmbeddings
from encodery.encoders.sparse import SparseEncoder
from encodery.model.load import load_model
from encodery.search.build import build
from encodery.search.precomputed_terms import PrecomputedTerms, precompute_terms
from encodery.search.rerank import Reranker
from encodery.search.rerank.cross_encoder import CrossEncoder
from encodery.search.rerank.term_weights import TermWeights
from encodery.search.reranking import reranker_of
from encodery.search.searcher import Searcher
from encodery.tokens.tokenizer import Tokenizer

WORDS = "red one cat two dog sun violin melody harbour sail onion pan"


@pytest.fixture(scope="module")
def model(
    tmp_path_factory: pytest.TempPathFactory,
    word_tokenizer: Callable[..., Tokenizer],
    weighing_model: Callable[..., Path],
) -> Path:
    """A model of term weights whose head is new but not even; it reads 24 tokens."""
    return weighing_model(tmp_path_factory.mktemp("terms"), word_tokenizer(WORDS.split(), lower=True))


TEXTS = ["Red cat, red sun.", "two dog", "", "red " * 60 + "cat", "harbour onion"]


def by_hand(model: Path, query: str, text: str) -> float:
    """Σ over the query's tokens of the highest relu(w · state + b) of an equal token, token by token."""
    loaded = load_model(model)
    encoder = SparseEncoder.from_loaded(loaded, "cpu")
    assert encoder.head is not None
    ids = loaded.tokenizer.encode(text).tolist()
    parts = np.array_split(np.array(ids), max(1, -(-len(ids) // 22)))
    weight, bias = encoder.head.linear.weight[0].detach(), encoder.head.linear.bias[0].detach()
    pairs: list[tuple[int, float]] = []
    from encodery.model.shape import Batch

    for part in parts:
        sequence = [loaded.tokenizer.cls_id, *part.tolist(), loaded.tokenizer.sep_id]
        with torch.no_grad():
            states = loaded.model.encoder(Batch.from_sequences([sequence])).hidden
        pairs += [(token, float(state @ weight + bias)) for token, state in zip(sequence, states, strict=True)]
    total = 0.0
    for token in loaded.tokenizer.encode(query).tolist():
        if token not in loaded.tokenizer.special_ids:
            total += max([0.0, *(value for other, value in pairs if other == token)])
    return total


def test_the_score_is_exact(model: Path) -> None:
    scorer = TermWeights(model=str(model)).open()
    for query in ("red cat red", "dog", "sun zzz", "", "violin"):
        scores = scorer.score(query, TEXTS)
        assert scores.tolist() == pytest.approx([by_hand(model, query, text) for text in TEXTS], rel=1e-4, abs=1e-5)
    assert scorer.score("red cat", TEXTS)[0] > 0
    assert scorer.score("red", []).shape == (0,)


def test_a_passage_is_encoded_once_and_queries_never(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    plain = SparseEncoder.weights
    encode_ = SparseEncoder.encode

    def noted(self: SparseEncoder, texts: Sequence[str], *more: Any, **over: Any) -> SparseEmbeddings:
        if over.get("prompt") != "query":
            read.extend(texts)
        return encode_(self, texts, *more, **over)

    monkeypatch.setattr(SparseEncoder, "encode", noted)
    scorer = TermWeights(model=str(model), cache_size=3).open()
    first = scorer.score("red cat", TEXTS[:3])
    monkeypatch.setattr(SparseEncoder, "weights", None)
    np.testing.assert_array_equal(scorer.score("red cat", TEXTS[:3]), first)
    scorer.score("two dog", [*TEXTS[:3], *TEXTS[:3]])
    assert read == TEXTS[:3]
    monkeypatch.setattr(SparseEncoder, "weights", plain)
    scorer.score("red", TEXTS[3:])
    scorer.score("red", TEXTS[:1])
    assert read == [*TEXTS[:3], *TEXTS[3:], TEXTS[0]], "only the last three were remembered"


def test_stored_weights_need_no_model(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = precompute_terms([*TEXTS, TEXTS[0]], model, tmp_path / "weights")
    assert made.manifest.metrics["passages"] == len(TEXTS)
    expected = TermWeights(model=str(model)).open().score("red cat dog", TEXTS)
    monkeypatch.setattr("encodery.search.precomputed_terms.load_model", None)
    scorer = TermWeights(model=str(tmp_path / "weights")).open()
    np.testing.assert_array_equal(scorer.score("red cat dog", TEXTS), expected)
    monkeypatch.undo()
    more = TermWeights(model=str(model)).open().score("sun", ["a new sun"])
    np.testing.assert_allclose(scorer.score("sun", ["a new sun"]), more, rtol=1e-5)
    assert len(PrecomputedTerms.open(tmp_path / "weights")) == len(TEXTS)
    with pytest.raises(EmptyInput, match="no passage"):
        precompute_terms([], model, tmp_path / "none")


def test_a_model_that_is_gone_or_another_is_named(model: Path, tmp_path: Path) -> None:
    held = tmp_path / "model"
    held.mkdir()
    for file in model.rglob("*"):
        if file.is_file():
            (held / file.relative_to(model)).parent.mkdir(parents=True, exist_ok=True)
            (held / file.relative_to(model)).write_bytes(file.read_bytes())
    precompute_terms(TEXTS, held, tmp_path / "weights")
    held.rename(tmp_path / "elsewhere")
    scorer = TermWeights(model=str(tmp_path / "weights")).open()
    assert scorer.score("red cat dog", TEXTS[:3]).max() > 0
    with pytest.raises(ArtifactError, match="does not exist"):
        scorer.score("red", ["something else"])


def test_a_folder_says_which_reranker_it_is(model: Path, tmp_path: Path) -> None:
    precompute_terms(TEXTS, model, tmp_path / "weights")
    assert isinstance(reranker_of(model), TermWeights)
    assert isinstance(reranker_of(tmp_path / "weights"), TermWeights)
    assert isinstance(reranker_of(model.parent / "model"), CrossEncoder)
    assert isinstance(reranker_of(tmp_path / "nowhere"), CrossEncoder)
    with pytest.raises(SettingsError, match="was not trained for sparse"):
        TermWeights(model=str(model.parent / "model")).open()
    with pytest.raises(SettingsError, match="cache_size = 0: must be at least 1"):
        TermWeights(model="x", cache_size=0)
    with pytest.raises(SettingsError, match="model"):
        TermWeights(model="")
    part = TermWeights(model="x")
    assert decode(Reranker, encode(part)) == part


def test_from_the_command_line(rows: Path, model: Path, tmp_path: Path) -> None:
    index, weights = tmp_path / "index", tmp_path / "weights"
    build([rows], index, None)
    run = CliRunner()
    result = run.invoke(
        app, ["precompute-terms", str(index), "--model", str(model), "--out", str(weights)], catch_exceptions=False
    )
    assert result.exit_code == 0
    assert "distinct passages" in result.stdout
    with Searcher.open(index) as searcher:
        assert len(PrecomputedTerms.open(weights)) == len(
            {p.text for some in searcher.index.store.scan() for p in some}
        )
    answers = []
    for folder in (model, weights):
        command = ["query", str(index), "violin melody", "--rerank", str(folder), "--rerank-weight", "1", "--json"]
        answers.append(json.loads(run.invoke(app, command, catch_exceptions=False).stdout))
    assert [hit["rerank"] for hit in answers[0]["hits"]] == [hit["rerank"] for hit in answers[1]["hits"]]
    ranked = [hit["rerank"] for hit in answers[0]["hits"]]
    assert ranked == sorted(ranked, reverse=True)
