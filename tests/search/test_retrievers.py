"""Sparse and multi-vector embeddings in an index: from a trained model's folder to queries, alone and together."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from encodery.base.errors import ArtifactError, InputError, SettingsError
from encodery.cli.search import app
from encodery.embed.examples import EmbeddingExamples
from encodery.embed.job import EmbedJob
from encodery.embed.planning import recipe_settings
from encodery.embed.prepared import prepare_texts
from encodery.embed.reading import EmbedData
from encodery.encoders.multi_vector import MultiVectorEncoder
from encodery.encoders.settings import DenseSettings
from encodery.encoders.sparse import SparseEncoder
from encodery.model.load import load_model
from encodery.search import searcher as searcher_module
from encodery.search.build import IndexSettings, build
from encodery.search.load_retrievers import as_retrievers, load_retriever, mode_of
from encodery.search.page.responder import PageResponder
from encodery.search.passages import Passages
from encodery.search.rerank.late_interaction import LateInteraction
from encodery.search.reranking import reranker_of
from encodery.search.retrievers.dense import DenseRetriever
from encodery.search.retrievers.multi_vector import MultiVectorRetriever
from encodery.search.retrievers.sparse import SparseRetriever
from encodery.search.searcher import Reranking, Searcher
from encodery.tokens.tokenizer import Tokenizer
from encodery.train.distributed import DistributedContext

WORDS = "violin melody harbour sail onion pan storm anchor chord tempo garlic oven"
TEXTS = {f"t{i}": " ".join(WORDS.split()[(i * 5 + n * n) % 12] for n in range(3 + i % 4)) for i in range(20)}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, word_tokenizer: Callable[..., Tokenizer], small_model: Callable[..., Path]
) -> Path:
    """Models `dense`, `sparse` and `late`, with new heads: what the jobs save before any training."""
    folder = tmp_path_factory.mktemp("models")
    made = small_model(folder, word_tokenizer([*WORDS.split(), "ask", "text"]), max_length=24)
    made.rename(folder / "dense")
    loaded = load_model(folder / "dense")
    data = EmbedData(EmbeddingExamples((["violin", "onion"], ["melody", "pan"])))
    recipes: dict[str, tuple[str, dict[str, Any]]] = {
        "sparse": ("splade", {}),
        "multi_vector": ("colbert", {"objective": {"token_dim": 16, "query_length": 16}}),
    }
    for name, (recipe, overrides) in recipes.items():
        settings = recipe_settings(recipe, overrides, loaded)
        EmbedJob(settings, prepare_texts(settings, loaded, data), DistributedContext(), CPU).save(folder / name, {})
    return folder


@pytest.fixture(scope="module")
def rows(folder: Path) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in TEXTS.items()))
    return file


def test_a_models_folder_says_what_it_gives(folder: Path) -> None:
    assert [mode_of(folder / name) for name in ("dense", "sparse", "multi_vector")] == [
        "dense",
        "sparse",
        "multi_vector",
    ]
    sides = as_retrievers([load_retriever(folder / name) for name in ("multi_vector", "dense", "sparse")])
    assert [type(side) for side in sides] == [DenseRetriever, SparseRetriever, MultiVectorRetriever]
    with pytest.raises(InputError, match="Two models for multi_vector"):
        as_retrievers([sides[2], sides[2]])


def test_the_index_scores_as_the_encoders_do(folder: Path, rows: Path, tmp_path: Path) -> None:
    sides = [load_retriever(folder / name) for name in ("sparse", "multi_vector")]
    build([rows], tmp_path / "index", sides, IndexSettings(weight=0.5))
    sparse, late = (load_model(folder / name) for name in ("sparse", "multi_vector"))
    rarely, tokens = SparseEncoder.from_loaded(sparse, CPU), MultiVectorEncoder.from_loaded(late, CPU)
    query, texts = "violin storm", list(TEXTS.values())
    held, query_terms = rarely.encode(texts, prompt="document"), rarely.encode([query], prompt="query")
    matrix = np.zeros((len(texts) + 1, rarely.dimension))
    for number, row in enumerate([held.at(i) for i in range(len(texts))] + [query_terms.at(0)]):
        matrix[number, row[0]] = row[1]
    truth = {
        "sparse": matrix[:-1] @ matrix[-1],
        "multi_vector": tokens.encode([query], prompt="query").similarity(tokens.encode(texts, prompt="document"))[0],
    }
    with Searcher.open(tmp_path / "index", sides) as searcher:
        assert searcher.index.modes == ("hybrid", "sparse", "multi_vector", "bm25")
        for mode in ("sparse", "multi_vector"):
            hits = searcher.search(query, 20, mode).hits
            assert {f.document: f.score for f in hits} == pytest.approx(
                dict(zip(TEXTS, truth[mode], strict=True)), rel=1e-3
            )
            assert all(getattr(f, mode) == f.score and f.bm25 is None for f in hits)
        both = searcher.search(query, 20)
        assert set(both.seconds) == {"encode", "bm25", "sparse", "multi_vector", "fuse", "show"}
        for hit in both.hits:
            number = list(TEXTS).index(hit.document)
            assert hit.sparse == pytest.approx(truth["sparse"][number], rel=1e-3)
            assert hit.multi_vector == pytest.approx(truth["multi_vector"][number], rel=1e-3)
            assert hit.bm25 is not None
            assert hit.dense is None
        alone = [f.document for f in searcher.search(query, 20, "multi_vector").hits]
        assert [f.document for f in searcher.search(query, 20, weight={"multi_vector": 1.0}).hits] == alone
        with pytest.raises(InputError, match="'dense'"):
            searcher.search(query, mode="dense")
        with pytest.raises(InputError, match="'dense'"):
            searcher.search(query, weight={"dense": 1.0})
        with PageResponder(searcher) as answers:
            page = answers.reply(f"/?q={query.replace(' ', '+')}&weights=multi_vector%3D1").body.decode()
            assert re.findall(r'href="/document\?[^"]*id=(t\d+)', page) == alone[:10]
            assert 'placeholder="bm25=0.50,sparse=0.25,multi_vector=0.25"' in page


def test_multi_vector_embeddings_rerank_the_hits_of_bm25(folder: Path, rows: Path, tmp_path: Path) -> None:
    build([rows], tmp_path / "index", None)
    reranker = reranker_of(folder / "multi_vector")
    assert reranker == LateInteraction(model=str(folder / "multi_vector"))
    scorer, encoder = reranker.open(), MultiVectorEncoder.from_loaded(load_model(folder / "multi_vector"), CPU)
    with Searcher.open(tmp_path / "index") as searcher:
        hits = searcher.search("violin melody", 5, "bm25", reranking=Reranking(scorer, 12, 1)).hits
        plain = searcher.search("violin melody", 12, "bm25").hits
    texts = [hit.text for hit in plain]
    truth = encoder.encode(["violin melody"], prompt="query").similarity(
        encoder.encode(texts, "chunk", prompt="document")
    )[0]
    assert [hit.rerank for hit in hits] == pytest.approx(sorted(truth.tolist(), reverse=True)[:5], rel=1e-5)
    assert [hit.text for hit in hits] != texts[:5]
    assert scorer.score("violin", []).shape == (0,)
    with pytest.raises(SettingsError, match="cache_size"):
        LateInteraction(model="x", cache_size=0)
    with pytest.raises(SettingsError, match="was not trained for multi-vector"):
        LateInteraction(model=str(folder / "dense")).open()


def test_a_passage_seen_before_is_not_encoded_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = LateInteraction(model=str(folder / "multi_vector"), cache_size=2).open()
    read: list[str] = []
    encode = MultiVectorEncoder.encode

    def noted(self: MultiVectorEncoder, texts: Any, *more: Any, **over: Any) -> Any:
        read.extend(texts)
        return encode(self, texts, *more, **over)

    monkeypatch.setattr(MultiVectorEncoder, "encode", noted)
    first = scorer.score("q", ["one", "two", "one"])
    assert first[0] == first[2]
    assert scorer.score("q", ["two", "one"]).tolist() == first[[1, 0]].tolist()
    scorer.score("q", ["three"])
    scorer.score("q", ["one", "two"])
    assert [text for text in read if text != "q"] == ["one", "two", "three", "two"]


def test_vectors_of_tokens_follow_the_others_where_there_are_many(
    folder: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(
        [rows],
        tmp_path / "index",
        load_retriever(folder / "multi_vector"),
        IndexSettings(weight=0.5),
        folder / "multi_vector",
    )
    with Searcher.open(tmp_path / "index") as searcher:
        everything = {f.document for f in searcher.search("violin", 20).hits}
        monkeypatch.setattr(searcher_module, "MULTI_VECTOR_EXHAUSTIVE", 5)
        held = {f.document for f in searcher.search("violin", 20).hits}
    assert len(everything) == 20
    assert held == {name for name, text in TEXTS.items() if "violin" in text}


def test_prompts_of_the_two_roles_are_used(folder: Path, rows: Path, tmp_path: Path) -> None:
    loaded = load_model(folder / "dense")
    from encodery.encoders.dense import DenseEncoder

    config = DenseSettings(prompts={"query": "ask ", "document": "text "})
    embedder = DenseEncoder(loaded.model, loaded.tokenizer, config, device="cpu")
    plain = DenseEncoder(loaded.model, loaded.tokenizer, DenseSettings(), device="cpu")
    settings = IndexSettings(postprocess=(), weight=0.5, passages=Passages(size=24))
    build([rows], tmp_path / "index", embedder, settings)
    side = DenseRetriever(embedder)
    assert side.max_length == embedder.max_content_tokens - 1
    with Searcher.open(tmp_path / "index", embedder) as searcher:
        hits = searcher.search("onion", 20, "dense").hits
    texts = plain.encode([f"text {text}" for text in TEXTS.values()]).vectors
    expected = texts @ plain.encode(["ask onion"]).vectors[0]
    assert {f.document: f.score for f in hits} == pytest.approx(dict(zip(TEXTS, expected, strict=True)), rel=1e-3)


def run(*arguments: Any) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_from_the_command_line(folder: Path, rows: Path, tmp_path: Path) -> None:
    index, models = (
        tmp_path / "index",
        [part for name in ("multi_vector", "sparse") for part in ("--model", folder / name)],
    )
    assert "20 documents" in run("index", rows, "--out", index, *models)
    answer = json.loads(run("query", index, "violin", "storm", "--json", "--top-k", 3))
    assert (answer["mode"], len(answer["hits"])) == ("hybrid", 3)
    assert all(hit["sparse"] is not None and hit["multi_vector"] is not None for hit in answer["hits"])
    shown = run("query", index, "violin", "--mode", "multi_vector")
    assert "multi_vector" in shown
    shown = run("query", index, "violin", "--weight", "bm25=0.2,multi_vector=0.8")
    assert "bm25" in shown
    assert "multi_vector" in shown
    assert "sparse" not in shown, "a retriever without weight is not used"
    stats = run("stats", index)
    assert "sparse" in stats
    assert "weight" in stats
    extra = tmp_path / "extra.jsonl"
    extra.write_text(json.dumps({"id": "new", "text": "oven oven garlic"}))
    assert "1 documents" in run("add", index, extra)
    encoded = tmp_path / "encoded"
    assert "1 of 2 open: 2" in run("encode", rows, "--out", encoded, *models, "--shards", 2, "--shard", 1)
    assert "20 documents" in run("encode", rows, "--out", encoded, *models, "--shards", 2)
    run("index", "--encoded", encoded, "--out", tmp_path / "second", "weight=0.4")
    again = json.loads(run("query", tmp_path / "second", "violin", "storm", "--json", "--top-k", 3))
    assert [hit["multi_vector"] is not None for hit in again["hits"]] == [True] * 3


def test_another_model_of_the_same_kind_is_refused(folder: Path, rows: Path, tmp_path: Path) -> None:
    build([rows], tmp_path / "index", load_retriever(folder / "multi_vector"), IndexSettings(weight=0.5))
    other = load_retriever(folder / "multi_vector")
    other.fingerprint = "0" * 32
    with pytest.raises(ArtifactError, match="another model"):
        Searcher.open(tmp_path / "index", other)
    with Searcher.open(tmp_path / "index") as searcher, pytest.raises(ArtifactError, match="--model"):
        searcher.search("violin")
    with Searcher.open(tmp_path / "index", model=folder / "multi_vector") as searcher:
        assert searcher.search("violin", 1).hits
