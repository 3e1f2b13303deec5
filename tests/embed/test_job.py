"""The job of embedding training: what is trained from every shape of data, selection by dev metrics, test metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encodery.base.errors import SettingsError
from encodery.base.settings import encode
from encodery.embed.examples import EmbeddingExamples
from encodery.embed.heldout_metrics import EncodedVectors, retrieval_metrics
from encodery.embed.job import LATER, EmbedJob
from encodery.embed.losses.triplet import Triplet
from encodery.embed.reading import EmbedData
from encodery.encoders.dense import DenseEncoder
from encodery.encoders.settings import DenseSettings
from encodery.model.load import LoadedModel, load_model

PROMPTS = {"query": "a ", "document": "b ", "other": "c "}


def test_pairs_are_learned_and_dev_retrieval_improves(make_job: Any, train_steps: Any, pairs: Any) -> None:
    job = make_job(pairs(200, 1), pairs(60, 2))
    before = job.score(100_000)
    losses = [step["loss"] for step in train_steps(job, 60)]
    after = job.score(100_000)
    assert set(after) == {"ndcg", "mrr"}
    assert losses[-1] < 0.5 * losses[0]
    assert after["ndcg"] > before["ndcg"] + 0.2
    assert job.selection_metric(after) == after["ndcg"] + LATER * job.position / len(job.lengths)
    assert job.module.training
    assert job.score(200)["ndcg"] > 0, "a few examples are enough"


def test_of_equal_metrics_the_later_weights_are_selected(make_job: Any, pairs: Any) -> None:
    job = make_job(pairs(64, 1), pairs(5, 2))
    first = job.selection_metric({"ndcg": 1.0, "mrr": 1.0})
    job.batches(0, 0.0, 0, None)
    later = job.selection_metric({"ndcg": 1.0, "mrr": 1.0})
    assert later > first
    assert job.selection_metric({"ndcg": 1.0 - 1e-6}) < first
    resumed = make_job(pairs(64, 1), pairs(5, 2))
    resumed.load_state(job.state())
    assert resumed.selection_metric({"ndcg": 1.0}) == later, "a resumed run selects alike"
    assert job.selection_metric({}) is None
    few = make_job(EmbedData(pairs(64, 1), pairs(5, 2), select_on_dev=False))
    assert few.selection_metric({"ndcg": 1.0}) is None
    assert "ndcg" in few.score(1000), "the metric is reported all the same"


def test_the_subset_of_dev_examples_does_not_depend_on_the_seed(make_job: Any, pairs: Any) -> None:
    first, second = (make_job(pairs(40, 1), pairs(60, 2), train={"seed": seed}).dev for seed in (0, 1))
    subset = first.subset(200)
    assert subset.data.columns == second.subset(200).data.columns
    assert 5 < len(subset) == len(subset.indices) < 60
    assert list(subset.data.columns[0]) != pairs(60, 2).columns[0][: len(subset)], "not the first ones"
    assert len(first.subset(100_000)) == 60


def test_test_examples_are_evaluated_once_with_the_saved_weights(
    make_job: Any, train_steps: Any, pairs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job: EmbedJob = make_job(EmbedData(pairs(64, 1), pairs(20, 2), ["a note"], pairs(50, 3)))
    assert job.test is not None
    pools: list[Any] = []
    compare = job.objective.compare
    monkeypatch.setattr(job.objective, "compare", lambda pool, texts: pools.append(pool) or compare(pool, texts))
    job.score(1000)
    train_steps(job, 5)
    assert job.test.pool not in pools
    assert "test_ndcg" not in job.metrics()
    job.save(tmp_path / "model", {"tokens": 100, "tokens_per_s": 50.0})
    assert [pool is job.test.pool for pool in pools].count(True) == 1
    encoder = DenseEncoder.from_loaded(load_model(tmp_path / "model"))
    vectors = EncodedVectors(encoder.encode(job.test.pool.texts).vectors)
    expected = retrieval_metrics(vectors, job.test.indices)
    metrics = job.metrics()
    assert metrics["test_ndcg"] == pytest.approx(expected["ndcg"])
    assert metrics["test_mrr"] == pytest.approx(expected["mrr"])
    assert metrics["samples_per_s"] == pytest.approx(40.0)
    details = json.loads((tmp_path / "details.json").read_text())
    assert details["notes"] == ["a note"]
    assert details["test"]["rows"] == 50
    assert details["test"]["metrics"]["ndcg"] == metrics["test_ndcg"]
    assert details["dev"]["rows"] == 20


def test_every_shape_of_data_is_learned(make_job: Any, train_steps: Any, pairs: Any) -> None:
    left, right = pairs(96, 1).columns
    negatives = right[1:] + right[:1]
    mixed = [r if i % 2 else n for i, (r, n) in enumerate(zip(right, negatives, strict=True))]
    similar = np.array([float(i % 2) for i in range(96)], np.float32)
    teacher = np.tile(np.array([[2.0, -1.0]], np.float32), (96, 1))
    classes = np.arange(96, dtype=np.int64) % 5
    topic = [f"a{c} b{c + 7} a{(i * 3) % 40}" for i, c in enumerate(classes)]
    for data, metric in (
        (EmbeddingExamples((left, right, negatives)), "ndcg"),
        (EmbeddingExamples((left, right, negatives), "scores", teacher), "ndcg"),
        (EmbeddingExamples((left, mixed), "score", similar), "spearman"),
        (EmbeddingExamples((left, mixed), "score", similar * 0.8 + 0.1), "spearman"),
        (EmbeddingExamples((topic,), "label", classes), "neighbour"),
    ):
        job = make_job(data, data)
        losses = [step["loss"] for step in train_steps(job, 40)]
        assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5]), job.settings.loss
        assert next(iter(job.score(100_000))) == metric


def test_raw_sentences_are_paired_with_themselves(make_job: Any, loaded: LoadedModel, pairs: Any) -> None:
    raw = EmbeddingExamples((pairs(64, 1).columns[0],))
    job = make_job(raw, pairs(20, 2), dropout=0.3)
    batch = job.batches(0, 0.0, 0, None).micro_batches[0].batch
    assert batch.extra["texts"].shape == (2, 16)
    assert torch.equal(batch.extra["texts"][0], batch.extra["texts"][1])
    torch.manual_seed(0)
    columns = job.objective.head.last_vectors(batch)[batch.extra["place"]].view(2, 16, -1)
    assert not torch.allclose(columns[0], columns[1]), "dropout makes the copies differ"
    assert "ndcg" in job.score(100_000), "dev examples may be labelled all the same"
    assert make_job(raw, raw).score(1000) == {}
    masked = make_job(raw, random_span_mask=2).batches(0, 0.0, 0, None).micro_batches[0].batch
    mask = loaded.tokenizer.mask_id
    ends = masked.cu_seqlens.tolist()
    has_mask = [mask in masked.ids[ends[at] : ends[at + 1]] for at in masked.extra["place"].tolist()]
    assert not any(has_mask[:16])
    assert all(has_mask[16:])


def test_a_large_batch_in_chunks_has_the_gradient_of_one_pass(make_job: Any, backward: Any, pairs: Any) -> None:
    grads = []
    for tokens in (100_000, 60):
        job = make_job(pairs(40, 1), batch=40, train={"micro_batch_tokens": tokens})
        step = job.batches(0, 0.0, 0, None)
        assert len(step.micro_batches) == 1, "examples that are compared stay in one micro-batch"
        backward(job, step)
        grads.append([p.grad for p in job.model.encoder.parameters()])
    for whole, chunked in zip(*grads, strict=True):
        torch.testing.assert_close(whole, chunked, rtol=1e-4, atol=1e-6)


def test_independent_examples_are_divided_into_micro_batches(make_job: Any, pairs: Any) -> None:
    left, right = pairs(40, 1).columns
    data = EmbeddingExamples((left, right, right[1:] + right[:1]))
    job = make_job(data, loss=encode(Triplet()), batch=40, train={"micro_batch_tokens": 200})
    assert len(job.batches(0, 0.0, 0, None).micro_batches) > 2


def test_texts_get_the_prompt_of_their_role(make_job: Any, loaded: LoadedModel, pairs: Any) -> None:
    encoder = encode(DenseSettings(prompts=PROMPTS))
    for settings, query, document in (
        ({}, "a", "b"),
        ({"roles": {"document": "other"}}, "a", "c"),
        ({"roles": {"query": "other"}}, "c", "b"),
    ):
        job = make_job(pairs(20, 1), encoder=encoder, **settings)
        texts = [loaded.tokenizer.decode(job.texts.pool.sequence(int(n))) for n in job.texts.indices[0]]
        assert [text.split()[0] for text in texts] == [query, document]


def test_the_guide_encodes_every_text_once(make_job: Any, train_steps: Any, loaded: LoadedModel, pairs: Any) -> None:
    data = pairs(32, 1)
    job = make_job(data, loss={"is": "gist"}, guide=str(loaded.path))
    batch = job.batches(0, 0.0, 0, None).micro_batches[0].batch
    assert batch.extra["guide"].shape == (2, 16, loaded.model.settings.width)
    texts = [job.texts.pool.texts[int(n)] for n in job.texts.indices[:, 0]]
    expected = DenseEncoder.from_loaded(loaded).encode(texts[:3]).vectors
    np.testing.assert_allclose(job.texts.guide[job.texts.indices[:3, 0]], expected, atol=2e-3)
    assert train_steps(job, 5)[-1]["loss"] > 0
    with pytest.raises(SettingsError, match="needs the embeddings of a guide"):
        make_job(data, loss={"is": "gist"})


def test_a_resumed_job_has_the_same_batches(make_job: Any, train_steps: Any, pairs: Any) -> None:
    job, resumed = (make_job(pairs(50, 1), dropout=0.1) for _ in range(2))
    train_steps(job, 3)
    resumed.load_state(job.state())
    first, second = (each.batches(3, 0.0, 0, None).micro_batches[0].batch for each in (job, resumed))
    assert torch.equal(first.ids, second.ids)
    assert job.identity() == resumed.identity()
    assert job.identity() != make_job(pairs(50, 2), dropout=0.1).identity()


@pytest.mark.parametrize(("name", "merges"), [("lora", True), ("adapters", False)])
def test_adaptations_are_trained_and_saved(
    name: str, merges: bool, make_job: Any, train_steps: Any, loaded: LoadedModel, pairs: Any, tmp_path: Path
) -> None:
    job = make_job(pairs(64, 1), pairs(30, 2), adapt={"is": name})
    trained = sum(p.numel() for p in job.module.parameters() if p.requires_grad)
    assert trained < 0.5 * sum(p.numel() for p in job.module.parameters())
    losses = [step["loss"] for step in train_steps(job, 15, lr=1e-2)]
    assert losses[-1] < losses[0]
    job.save(tmp_path / "model", {})
    again = load_model(tmp_path / "model")
    assert (again.model.settings == loaded.model.settings) is merges
    indices = job.texts.indices[:4, 0]
    expected = job.objective.compare(job.texts.pool, indices).vectors
    texts = [job.texts.pool.texts[int(n)] for n in indices]
    np.testing.assert_allclose(DenseEncoder.from_loaded(again, "cpu").encode(texts).vectors, expected, atol=2e-5)
