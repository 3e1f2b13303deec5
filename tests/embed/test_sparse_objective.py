"""Training of sparse embeddings: terms of the vocabulary and of the text itself, queries as bags of words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encodery.base.errors import ArtifactError, SettingsError
from encodery.embed.examples import EmbeddingExamples
from encodery.embed.job import EmbedJob
from encodery.embed.planning import recipe_settings
from encodery.embed.prepared import prepare_texts
from encodery.embed.reading import EmbedData
from encodery.encoders.sparse import (
    SparseEmbeddings,
    SparseEncoder,
    SparseSettings,
    vocabulary_scores,
    vocabulary_weights,
)
from encodery.model.checkpoint import read_tensors, write_tensors
from encodery.model.load import MODULES, LoadedModel, load_model
from encodery.train.distributed import DistributedContext

CPU = torch.device("cpu")
DOT = {"is": "infonce", "similarity": "dot", "temperature": 1.0}


def dense(embeddings: SparseEmbeddings, vocab_size: int) -> np.ndarray:
    weights = np.zeros((len(embeddings), vocab_size), np.float32)
    for text in range(len(embeddings)):
        terms, values = embeddings.at(text)
        weights[text, terms] = values
    return weights


def test_embeddings_are_learned_become_sparse_and_come_back(
    make_job: Any, train_steps: Any, pairs: Any, tmp_path: Path
) -> None:
    loss = {"is": "flops", "loss": DOT, "query_weight": 0.02, "document_weight": 0.02}
    job = make_job(pairs(200, 1), pairs(60, 2), objective="sparse", loss=loss)
    before = job.score(100_000)
    terms = [step["document_terms"] for step in train_steps(job, 120, progress=1.0)]
    assert job.score(100_000)["ndcg"] > before["ndcg"] + 0.2
    assert terms[-1] < 0.5 * max(terms)
    job.save(tmp_path / "model", {})
    encoder = SparseEncoder.from_loaded(load_model(tmp_path / "model"), CPU)
    expected = job.objective.compare(job.texts.pool, np.arange(5)).vectors
    stored = dense(encoder.encode(job.texts.pool.texts[:5]), encoder.dimension)
    np.testing.assert_allclose(stored, expected, atol=1e-5)


def test_losses_of_earlier_layers_are_refused(make_job: Any, pairs: Any) -> None:
    with pytest.raises(SettingsError, match="last layer alone"):
        make_job(pairs(16, 1), objective="sparse", loss={"is": "matryoshka_layers", "loss": DOT})


def test_a_head_whose_scores_are_all_below_zero_gets_a_new_bias(make_job: Any, loaded: LoadedModel, pairs: Any) -> None:
    bias = dict(loaded.model.named_parameters())["heads.mlm.bias"]

    def make() -> EmbedJob:
        job: EmbedJob = make_job(pairs(100, 1), objective="sparse", loss={"is": "flops", "loss": DOT})
        return job

    def bias_of(job: EmbedJob) -> torch.Tensor:
        tensor: torch.Tensor = job.model.state_dict()["heads.mlm.bias"]
        return tensor

    def mean_terms(job: EmbedJob) -> float:
        batch, _ = job.texts.pool.batch(np.arange(60))
        return float((vocabulary_weights(job.model, batch) > 0).sum(1).float().mean())

    assert make().warnings(torch.float32) == [], "a head that gives terms is not changed"
    assert torch.equal(bias_of(make()), bias)
    original = bias.detach().clone()
    try:
        with torch.no_grad():
            bias.copy_(torch.linspace(-60.0, -40.0, len(bias)))
        job = make()
        assert "gives a text 0.0 terms" in job.warnings(torch.float32)[0]
        tokens = float(job.texts.pool.lengths[:60].mean())
        assert mean_terms(job) == pytest.approx(tokens, rel=0.3)
        assert len(set(bias_of(job).tolist())) == 1
        for name, tensor in make().model.state_dict().items():
            assert torch.equal(tensor, job.model.state_dict()[name]), "the same in a resumed run"
        with torch.no_grad():
            scores = vocabulary_scores(make().model, job.texts.pool.batch(np.arange(60))[0])
            bias.copy_(bias_of(job) - torch.quantile(scores.flatten(), 1 - 0.3 * tokens / len(bias)))
        assert make().objective_warnings == [], "a head that gives few terms may have learned to"
        assert mean_terms(make()) == pytest.approx(0.3 * tokens, rel=0.3)
    finally:
        with torch.no_grad():
            bias.copy_(original)


def marked(count: int, seed: int) -> EmbeddingExamples:
    """Passages in which the word after "a" is the topic, and the word after "b" is only mentioned."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, 40, (count, 3))
    queries = [f"a{word}" for word, _, _ in drawn]
    positives = [f"c b{other} a a{word}" if word % 2 else f"a a{word} c b{other}" for word, other, _ in drawn]
    negatives = [f"c b{other} b a{word}" if word % 2 else f"b a{word} c b{other}" for word, _, other in drawn]
    return EmbeddingExamples((queries, positives, negatives))


def term_job(loaded: LoadedModel, data: EmbeddingExamples, dev: EmbeddingExamples | None = None) -> EmbedJob:
    settings = recipe_settings("tilde_v2", {"batch": 16, "train": {"precision": "fp32"}}, loaded)
    return EmbedJob(settings, prepare_texts(settings, loaded, EmbedData(data, dev)), DistributedContext(), CPU)


def margin(job: EmbedJob) -> float:
    """By how much dev queries score their positive above their negative, on average."""
    assert job.dev is not None
    pool, indices = job.dev.pool, job.dev.indices
    compared = job.objective.compare(pool, np.arange(len(pool.texts)))
    positives, negatives = (compared.pairs(indices[:, 0], indices[:, column]) for column in (1, 2))
    return float((positives - negatives).mean())


def test_term_weights_depend_on_context_and_come_back(loaded: LoadedModel, train_steps: Any, tmp_path: Path) -> None:
    """Which of two passages with the query's word has it as topic depends on what is before the word."""
    job = term_job(loaded, marked(300, 1), marked(60, 2))
    before = margin(job)
    train_steps(job, 100, progress=1.0)
    assert abs(before) < 0.3
    assert margin(job) > before + 1
    assert job.score(100_000)["ndcg"] > 0.9
    job.save(tmp_path / "model", {})
    again = load_model(tmp_path / "model")
    encoder = SparseEncoder.from_loaded(again, CPU)
    assert encoder.settings.prompts == {"query": "", "document": ""}
    expected = job.objective.compare(job.texts.pool, np.arange(6)).weights  # type: ignore[attr-defined]
    stored = dense(encoder.encode(job.texts.pool.texts[:6]), encoder.dimension)
    np.testing.assert_allclose(stored, expected, atol=1e-5)
    further = term_job(again, marked(50, 3))
    for mine, theirs in ((further, job),):
        torch.testing.assert_close(mine.module["term_head"].state_dict(), theirs.module["term_head"].state_dict())  # type: ignore[index]


def test_a_step_counts_the_tokens_of_anchors(make_job: Any, loaded: LoadedModel) -> None:
    """The loss against one that is written out by hand."""
    anchors = [f"a{i} a{i} a{i + 20}" for i in range(8)]  # All different, so that none is masked as a false negative.
    positives, negatives = ([f"{word} a{i} c b{i}" for i in range(8)] for word in ("a", "b"))
    data = EmbeddingExamples((anchors, positives, negatives))
    objective = {"is": "sparse", "terms": "tokens", "query_encoding": "bow"}
    job = make_job(data, objective=objective, loss=DOT, batch=8)
    job.module.eval()
    batch = job.collate(np.arange(8), 0)
    with torch.no_grad():
        total = float(job.terms(batch)["infonce"].total)
        settings = SparseSettings(terms="tokens", query_encoding="bow")
        encoder = SparseEncoder(job.model, loaded.tokenizer, settings, CPU, job.module["term_head"])
        queries = dense(encoder.encode(data.columns[0], prompt="query"), 128)
        passages = dense(encoder.encode([*data.columns[1], *data.columns[2]]), 128)
    scores = queries @ passages.T
    expected = (np.log(np.exp(scores).sum(1)) - scores[np.arange(8), np.arange(8)]).sum()
    assert total == pytest.approx(float(expected), rel=1e-4)


def test_a_changed_term_head_is_refused(loaded: LoadedModel, tmp_path: Path) -> None:
    term_job(loaded, marked(20, 1)).save(tmp_path / "model", {})
    file = tmp_path / "model" / MODULES / "sparse.safetensors"
    tensors = read_tensors(file)
    write_tensors(file, {**tensors, "linear.bias": tensors["linear.bias"] + 1})
    with pytest.raises(ArtifactError, match="no longer computes"):
        SparseEncoder.from_loaded(load_model(tmp_path / "model", verify=False), CPU)
