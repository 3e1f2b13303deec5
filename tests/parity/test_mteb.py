"""Our models in stock mteb: small tasks that are made here give the same metrics as our own suites."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from encodery.encoders.sparse import SparseEncoder, SparseSettings, TermHead
from encodery.evaluate.compare import SuiteTask, compare
from encodery.evaluate.mteb import MTEBEncoder
from encodery.evaluate.suites.retrieval import RetrievalSuite
from encodery.evaluate.suites.sts import STSSuite
from encodery.evaluate.systems.model import ModelSystem
from encodery.model.load import load_model, save_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    mteb = pytest.importorskip("mteb", reason="mteb is not installed (pip install mteb)")
    datasets = pytest.importorskip("datasets")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # mteb's own
]
WORDS = ["river", "mountain", "window", "garden", "captain", "letter", "summer", "winter", "morning", "village"]


def metadata(name: str, kind: str, main: str) -> Any:
    from mteb.abstasks.task_metadata import TaskMetadata

    return TaskMetadata(
        name=name, type=kind, main_score=main, description="made by a test", dataset={"path": "made", "revision": "1"},
        eval_splits=["test"], eval_langs=["eng-Latn"], category="t2t", modalities=["text"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def encoder(minilm: Path) -> MTEBEncoder:
    return MTEBEncoder(minilm)


def test_it_is_what_mteb_calls_an_encoder(encoder: MTEBEncoder) -> None:
    from mteb.models import EncoderProtocol

    assert isinstance(encoder, EncoderProtocol)
    meta = encoder.mteb_model_meta
    assert meta.name == "local/model"
    assert meta.embed_dim == 384
    assert meta.n_parameters == 22_565_376
    same, other = encoder.encoder.encode(["a river", "a car"]).vectors
    assert encoder.similarity(same, np.stack([same, other])).shape == (1, 2)
    assert encoder.similarity_pairwise([same, other], [same, same]) == pytest.approx([1, same @ other], abs=1e-5)


def test_similarity_task(encoder: MTEBEncoder, minilm: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = [
        {"sentence1": f"the {a} and the {b}", "sentence2": f"a {c}", "score": float(c in (a, b)) + rng.random()}
        for a, b, c in ([rng.choice(WORDS) for _ in range(3)] for _ in range(60))
    ]

    class Local(mteb.abstasks.AbsTaskSTS):
        metadata = metadata("LocalSTS", "STS", "cosine_spearman")

        def load_data(self, **_: Any) -> None:
            self.dataset = datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)})
            self.data_loaded = True

    result = mteb.evaluate(encoder, Local(), cache=None, show_progress_bar=False, co2_tracker=False)
    theirs = result.task_results[0].get_score()
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ours = (
        compare([ModelSystem(path=str(minilm))], [SuiteTask(suite=STSSuite(), data=tmp_path / "pairs.jsonl")])
        .rows[0]
        .result
    )
    assert ours is not None
    assert theirs == pytest.approx(ours.value, abs=1e-4)
    assert 0.2 < theirs < 1


@pytest.fixture(scope="module")
def sparse(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of term weights, whose head is not trained."""
    loaded, folder = load_model(minilm), tmp_path_factory.mktemp("sparse") / "model"
    torch.manual_seed(0)
    settings, head = SparseSettings(terms="tokens"), TermHead(loaded.model.settings.width)
    stored = SparseEncoder(loaded.model, loaded.tokenizer, settings, "cpu", head).stored()
    save_model(folder, loaded.model, loaded.tokenizer_path, settings=stored.settings, modules=stored.modules)
    return folder


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_retrieval_task(kind: str, minilm: Path, sparse: Path, tmp_path: Path) -> None:
    model = minilm if kind == "dense" else sparse
    encoder = MTEBEncoder(model)
    corpus = {f"d{n}": f"All that is known of the {word}, and of the {WORDS[n - 3]}." for n, word in enumerate(WORDS)}
    queries = {f"q{n}": f"tell me about {word}" for n, word in enumerate(WORDS)}
    grades = {f"q{n}": {f"d{n}": 2, f"d{(n + 3) % 10}": 1} for n in range(10)}

    class Local(mteb.abstasks.AbsTaskRetrieval):
        metadata = metadata("LocalRetrieval", "Retrieval", "ndcg_at_10")

        def load_data(self, **_: Any) -> None:
            made = datasets.Dataset.from_list
            self.dataset = {
                "default": {
                    "test": {
                        "corpus": made([{"id": key, "title": "", "text": text} for key, text in corpus.items()]),
                        "queries": made([{"id": key, "text": text} for key, text in queries.items()]),
                        "relevant_docs": grades,
                        "top_ranked": None,
                    }
                }
            }
            self.data_loaded = True

    result = mteb.evaluate(encoder, Local(), cache=None, show_progress_bar=False, co2_tracker=False)
    theirs = result.task_results[0].scores["test"][0]
    for name, texts in (("corpus", corpus), ("queries", queries)):
        rows = "".join(json.dumps({"_id": key, "text": text}) + "\n" for key, text in texts.items())
        (tmp_path / f"{name}.jsonl").write_text(rows)
    (tmp_path / "qrels").mkdir()
    lines = [f"{query}\t{document}\t{grade}" for query, held in grades.items() for document, grade in held.items()]
    (tmp_path / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")
    result = (
        compare([ModelSystem(path=str(model))], [SuiteTask(suite=RetrievalSuite(k=3, depth=10), data=tmp_path)])
        .rows[0]
        .result
    )
    assert result is not None
    ours = {name: figure.value for name, figure in result.metrics.items()}
    assert theirs["ndcg_at_3"] == pytest.approx(ours["ndcg@3"], abs=1e-4)
    assert theirs["map_at_10"] == pytest.approx(ours["map@10"], abs=1e-4)
    assert theirs["recall_at_10"] == pytest.approx(ours["recall@10"], abs=1e-4)


def test_prompts_in_the_order_mteb_promises(encoder: MTEBEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    task = SimpleNamespace(name="NFCorpus", type="Retrieval")
    prompts: dict[str, str] = {}
    monkeypatch.setattr(encoder.encoder, "settings", SimpleNamespace(prompts=prompts))
    assert encoder.prompt(task, "query") is None
    for name in ("query", "Retrieval", "Retrieval-query", "NFCorpus", "NFCorpus-query"):
        prompts[name] = "x"
        assert encoder.prompt(task, "query") == name
    assert encoder.prompt(task, "document") == "NFCorpus"
