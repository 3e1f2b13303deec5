"""Learned sparse vectors and vectors of tokens in an index: from a trained model's folder to queries, and mixed."""

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
from encodery.embed.data import Labelled
from encodery.embed.multivector import MultiVectorEncoder, similarity
from encodery.embed.multivector_job import MultiVectorJob
from encodery.embed.planning import settings_of
from encodery.embed.settings import EmbedSettings
from encodery.embed.sparse import SparseEncoder
from encodery.embed.sparse_job import SparseJob
from encodery.model.load import load_model
from encodery.search import searcher as searcher_module
from encodery.search.index import IndexSettings, build
from encodery.search.page.answers import Answers
from encodery.search.passages import Passages
from encodery.search.rerank.late_interaction import LateInteraction
from encodery.search.reranking import reranker_of
from encodery.search.searcher import Searcher
from encodery.search.sides import Dense, Late, Sparse, load, mode_of, sides_of
from encodery.tokens.tokenizer import Tokenizer
from encodery.train.distributed import Team

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = "violin melody harbour sail onion pan storm anchor chord tempo garlic oven"
TEXTS = {f"t{i}": " ".join(WORDS.split()[(i * 5 + n * n) % 12] for n in range(3 + i % 4)) for i in range(20)}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, word_tokenizer: Callable[..., Tokenizer], small_model: Callable[..., Path]
) -> Path:
    """Models `dense`, `sparse` and `late`, their heads new: what the jobs save before they have learnt anything."""
    folder = tmp_path_factory.mktemp("models")
    made = small_model(folder, word_tokenizer([*WORDS.split(), "ask", "text"]), max_length=24)
    made.rename(folder / "dense")
    loaded = load_model(folder / "dense")
    data = Labelled((["violin", "onion"], ["melody", "pan"]))
    sparse = SparseJob(settings_of("splade", {}, loaded), loaded, data, None, Team(), CPU)
    sparse.save(folder / "sparse", {})
    narrow = settings_of("colbert", {"token_width": 16, "query_length": 16}, loaded)
    late = MultiVectorJob(narrow, loaded, data, None, Team(), CPU)
    late.save(folder / "late", {})
    return folder


@pytest.fixture(scope="module")
def rows(folder: Path) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in TEXTS.items()))
    return file


def test_a_models_folder_says_what_it_gives(folder: Path) -> None:
    assert [mode_of(folder / name) for name in ("dense", "sparse", "late")] == ["dense", "sparse", "late"]
    sides = sides_of([load(folder / name) for name in ("late", "dense", "sparse")])
    assert [type(side) for side in sides] == [Dense, Sparse, Late]
    with pytest.raises(InputError, match="Two models for late"):
        sides_of([sides[2], sides[2]])


def test_the_index_scores_as_the_encoders_do(folder: Path, rows: Path, tmp_path: Path) -> None:
    sides = [load(folder / name) for name in ("sparse", "late")]
    build([rows], tmp_path / "index", sides, IndexSettings(weight=0.5))
    sparse, late = (load_model(folder / name) for name in ("sparse", "late"))
    rarely, tokens = SparseEncoder.of(sparse, CPU), MultiVectorEncoder.of(late, CPU)
    query, texts = "violin storm", list(TEXTS.values())
    held, asked = rarely.encode(texts, prompt="document"), rarely.encode([query], prompt="query")
    matrix = np.zeros((len(texts) + 1, rarely.width))
    for number, row in enumerate([held.row(i) for i in range(len(texts))] + [asked.row(0)]):
        matrix[number, row[0]] = row[1]
    truth = {
        "sparse": matrix[:-1] @ matrix[-1],
        "late": similarity(tokens.encode([query], prompt="query"), tokens.encode(texts, prompt="document"))[0],
    }
    with Searcher(tmp_path / "index", sides) as searcher:
        assert searcher.modes == ("hybrid", "sparse", "late", "bm25")
        for mode in ("sparse", "late"):
            found = searcher.search(query, 20, mode).found
            assert {f.document: f.score for f in found} == pytest.approx(
                dict(zip(TEXTS, truth[mode], strict=True)), rel=1e-3
            )
            assert all(getattr(f, mode) == f.score and f.words is None for f in found)
        both = searcher.search(query, 20)
        assert set(both.seconds) == {"encode", "words", "sparse", "late", "fuse", "show"}
        for hit in both.found:
            number = list(TEXTS).index(hit.document)
            assert hit.sparse == pytest.approx(truth["sparse"][number], rel=1e-3)
            assert hit.late == pytest.approx(truth["late"][number], rel=1e-3)
            assert hit.words is not None
            assert hit.vector is None
        alone = [f.document for f in searcher.search(query, 20, "late").found]
        assert [f.document for f in searcher.search(query, 20, weight={"late": 1.0}).found] == alone
        with pytest.raises(InputError, match="'dense'"):
            searcher.search(query, mode="dense")
        with pytest.raises(InputError, match="'dense'"):
            searcher.search(query, weight={"dense": 1.0})
        with Answers(searcher) as answers:
            page = answers.reply(f"/?q={query.replace(' ', '+')}&weights=late%3D1").body.decode()
            assert re.findall(r'href="/document\?[^"]*id=(t\d+)', page) == alone[:10]
            assert 'placeholder="bm25=0.50,sparse=0.25,late=0.25"' in page


def test_token_vectors_order_anew_what_words_found(folder: Path, rows: Path, tmp_path: Path) -> None:
    build([rows], tmp_path / "index", None)
    reranker = reranker_of(folder / "late")
    assert reranker == LateInteraction(model=str(folder / "late"))
    scorer, encoder = reranker.open(), MultiVectorEncoder.of(load_model(folder / "late"), CPU)
    with Searcher(tmp_path / "index") as searcher:
        found = searcher.search("violin melody", 5, "bm25", reranker=scorer, reranked=12, rerank_weight=1).found
        plain = searcher.search("violin melody", 12, "bm25").found
    texts = [hit.text for hit in plain]
    truth = similarity(
        encoder.encode(["violin melody"], prompt="query"), encoder.encode(texts, "chunk", prompt="document")
    )[0]
    assert [hit.rerank for hit in found] == pytest.approx(sorted(truth.tolist(), reverse=True)[:5], rel=1e-5)
    assert [hit.text for hit in found] != texts[:5]
    assert scorer.score("violin", []).shape == (0,)
    with pytest.raises(SettingsError, match="remembered"):
        LateInteraction(model="x", remembered=0)
    with pytest.raises(SettingsError, match="was not trained for a vector a token"):
        LateInteraction(model=str(folder / "dense")).open()


def test_a_passage_seen_before_is_not_encoded_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = LateInteraction(model=str(folder / "late"), remembered=2).open()
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
    build([rows], tmp_path / "index", load(folder / "late"), IndexSettings(weight=0.5), folder / "late")
    with Searcher(tmp_path / "index") as searcher:
        everything = {f.document for f in searcher.search("violin", 20).found}
        monkeypatch.setattr(searcher_module, "LATE_WHOLE", 5)
        held = {f.document for f in searcher.search("violin", 20).found}
    assert len(everything) == 20
    assert held == {name for name, text in TEXTS.items() if "violin" in text}


def test_prompts_of_the_two_roles_are_used(folder: Path, rows: Path, tmp_path: Path) -> None:
    loaded = load_model(folder / "dense")
    from encodery.embed.embedder import Embedder

    told = EmbedSettings(prompts={"query": "ask ", "document": "text "})
    embedder = Embedder(loaded.model, loaded.tokenizer, told, device="cpu")
    plain = Embedder(loaded.model, loaded.tokenizer, EmbedSettings(), device="cpu")
    settings = IndexSettings(finish=(), weight=0.5, passages=Passages(size=24))
    build([rows], tmp_path / "index", embedder, settings)
    side = Dense(embedder)
    assert side.longest == embedder.longest - 1
    with Searcher(tmp_path / "index", embedder) as searcher:
        found = searcher.search("onion", 20, "dense").found
    texts = plain.encode([f"text {text}" for text in TEXTS.values()]).vectors
    expected = texts @ plain.encode(["ask onion"]).vectors[0]
    assert {f.document: f.score for f in found} == pytest.approx(dict(zip(TEXTS, expected, strict=True)), rel=1e-3)


def run(*arguments: Any) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_from_the_command_line(folder: Path, rows: Path, tmp_path: Path) -> None:
    index, models = tmp_path / "index", [part for name in ("late", "sparse") for part in ("--model", folder / name)]
    assert "20 documents" in run("index", rows, "--out", index, *models)
    answer = json.loads(run("query", index, "violin", "storm", "--json", "--top-k", 3))
    assert (answer["mode"], len(answer["hits"])) == ("hybrid", 3)
    assert all(hit["sparse"] is not None and hit["late"] is not None for hit in answer["hits"])
    shown = run("query", index, "violin", "--mode", "late")
    assert "late" in shown
    shown = run("query", index, "violin", "--weight", "bm25=0.2,late=0.8")
    assert "words" in shown
    assert "late" in shown
    assert "sparse" not in shown, "what has no share is not asked"
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
    assert [hit["late"] is not None for hit in again["hits"]] == [True] * 3


def test_another_model_of_the_same_kind_is_refused(folder: Path, rows: Path, tmp_path: Path) -> None:
    build([rows], tmp_path / "index", load(folder / "late"), IndexSettings(weight=0.5))
    other = load(folder / "late")
    other.fingerprint = "0" * 32
    with pytest.raises(ArtifactError, match="another model"):
        Searcher(tmp_path / "index", other)
    with Searcher(tmp_path / "index") as searcher, pytest.raises(ArtifactError, match="--model"):
        searcher.search("violin")
    with Searcher(tmp_path / "index", model=folder / "late") as searcher:
        assert searcher.search("violin", 1).found
