"""Texts longer than the model takes, trained in windows whose embeddings are averaged (`truncate = "chunk"`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encodery.base.errors import SettingsError
from encodery.base.settings import decode
from encodery.embed.examples import EmbeddingExamples
from encodery.embed.heldout_metrics import EncodedVectors
from encodery.embed.loss_inputs import LossInputs
from encodery.embed.training import EmbedTraining
from encodery.encoders.dense import DenseEncoder
from encodery.model.load import LoadedModel, load_model

ENCODER = {"max_length": 6, "prompts": {"query": "a ", "document": "b "}}
LONG: dict[str, Any] = {"truncate": "chunk", "encoder": ENCODER, "dropout": 0.0}


def long_pairs(pairs: Any, count: int, seed: int) -> EmbeddingExamples:
    """Pairs, some texts of which need several windows of four tokens."""
    left, right = pairs(count, seed).columns
    return EmbeddingExamples(
        ([f"{t} {t}" if i % 3 else t for i, t in enumerate(left)], [f"{t} b1 b2 b3" for t in right])
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"encoder": {**ENCODER, "pooling": "attention"}},
        {
            "encoder": {**ENCODER, "postprocess": [{"is": "whiten", "power": 1.0}, "normalise"]},
            "objective": {"is": "dense", "whiten_before_training": True},
        },
        {"loss": {"is": "triplet"}, "train": {"micro_batch_tokens": 40}},
    ],
    ids=["mean", "attention pooling", "whitened before training", "independent in small micro-batches"],
)
def test_a_long_text_is_trained_as_it_is_used(
    settings: dict[str, Any],
    make_job: Any,
    train_steps: Any,
    pairs: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = long_pairs(pairs, 64, 1)
    if "loss" in settings:
        data = EmbeddingExamples((*data.columns, data.columns[1][1:] + data.columns[1][:1]))
    job = make_job(data, long_pairs(pairs, 20, 2), **{**LONG, **settings})
    assert job.texts.pool.has_windows
    train_steps(job, 3)
    job.save(tmp_path / "model", {})
    encoder = DenseEncoder.from_loaded(load_model(tmp_path / "model"))
    seen: list[LossInputs] = []
    terms = type(job.settings.loss).terms
    monkeypatch.setattr(
        type(job.settings.loss), "terms", lambda loss, inputs: seen.append(inputs) or terms(loss, inputs)
    )
    chosen, place = job._next_examples(job.position, 16), {}
    job.module.eval()
    for micro in job.batches(3, 0.0, 0, None).micro_batches:
        job.terms(micro.batch)
        assert int(micro.batch.cu_seqlens.diff().max()) <= 6
        for row, texts in enumerate(micro.batch.extra["texts"].T.tolist()):
            place[tuple(texts)] = (seen[-1], row)
    assert len(place) == 16
    for number in chosen.tolist():
        texts = [data.columns[column][number] for column in range(len(data.columns))]
        inputs, row = place[tuple(job.texts.pool.text_ids[job.texts.indices[number]].tolist())]
        for column, text in enumerate(texts):
            expected = encoder.encode([text], "chunk", prompt="document" if column else "query").vectors[0]
            trained = torch.nn.functional.normalize(inputs.vectors[column][row].detach(), dim=0).numpy()
            np.testing.assert_allclose(trained, expected, atol=2e-5)
    queries = job.dev.indices[:, 0]
    compared = job.objective.compare(job.dev.pool, queries)
    assert isinstance(compared, EncodedVectors)
    texts = [job.dev.pool.texts[int(number)] for number in queries]
    np.testing.assert_allclose(encoder.encode(texts, "chunk", prompt="query").vectors, compared.vectors, atol=2e-5)


def test_every_window_of_a_long_text_gets_a_gradient(make_job: Any, backward: Any, loaded: LoadedModel) -> None:
    data = EmbeddingExamples((["a1 a2 a3 a4 a5 a6 a7 a8 a9", "a30"], ["b1 b2", "b3 b4 b5 b6 b7"]))
    grads = []
    for tokens in (10_000, 12):
        encoder = {"max_length": 5, "prompts": {}}
        job = make_job(data, **{**LONG, "encoder": encoder}, batch=2, train={"micro_batch_tokens": tokens})
        assert job.lengths.tolist() == [9 + 3 * 2 + 4, 3 + 5 + 2 * 2], "the tokens that go through the model"
        step = job.batches(0, 0.0, 0, None)
        assert step.tokens == sum(micro.batch.tokens for micro in step.micro_batches) == 31
        backward(job, step)
        grads.append([p.grad for p in job.model.encoder.parameters()])
        embeddings = job.model.encoder.token_embeddings.grad
        assert embeddings is not None
        for text in ("a1", "a5", "a9", "b7"):
            assert embeddings[int(loaded.tokenizer.encode(text)[0])].abs().sum() > 0
        assert embeddings[int(loaded.tokenizer.encode("a20")[0])].abs().sum() == 0
    for whole, chunked in zip(*grads, strict=True):
        torch.testing.assert_close(whole, chunked, rtol=1e-4, atol=1e-6)


def test_chunk_changes_nothing_for_texts_that_fit(make_job: Any, train_steps: Any, pairs: Any) -> None:
    losses = [train_steps(make_job(pairs(40, 1), truncate=truncate), 4) for truncate in ("right", "chunk")]
    assert losses[0] == losses[1]


def test_windows_of_encoded_texts_keep_the_token_budget(make_job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = EmbeddingExamples(([" ".join(["a1"] * 60), "a2"], ["b1", "b2"]))
    job = make_job(data, **LONG, train={"micro_batch_tokens": 30})
    sizes: list[int] = []
    head = job.objective.head
    plain = head.last_vectors
    monkeypatch.setattr(head, "last_vectors", lambda part: sizes.append(part.tokens) or plain(part))
    head.encode(job.texts.pool, np.arange(4))
    assert max(sizes) <= 30
    assert sum(sizes) == job.texts.pool.lengths.sum()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"objective": "sparse"}, "objective = 'sparse' has none to average"),
        ({"objective": "multi_vector"}, "objective = 'multi_vector' has none to average"),
        ({"objective": "denoising"}, "denoising writes a text again"),
        ({"objective": "discourse"}, "discourse learns from sentences"),
        ({"random_span_mask": 2}, "random_span_mask = 2 masks a span"),
    ],
)
def test_chunk_is_refused_where_a_text_must_be_one_sequence(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError, match=f"truncate = 'chunk': .*{reason}.*choose error, right or left"):
        decode(EmbedTraining, {"truncate": "chunk", **settings})
