"""Denoising: what the decoder sees, what is learned, what is dropped at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from encodery.encoders.dense import DenseEncoder
from encodery.model.load import LoadedModel, load_model
from encodery.model.memory import Memory
from encodery.model.shape import Batch

OBJECTIVE = {"is": "denoising", "deletion_rate": 0.5}


def test_a_token_is_predicted_from_those_before_it_and_the_vector(make_job: Any, pairs: Any) -> None:
    """The decoder has no access to the states of the encoder's tokens: the vector is all that it reads."""
    job = make_job(pairs(20, 1), objective=OBJECTIVE)
    decoder = job.objective.decoder.eval()
    batch = Batch.from_sequences([[2, 7, 8, 9, 3], [2, 3], [2, 11, 12, 3]])
    x, vectors = torch.randn(batch.tokens, 32), torch.randn(3, 32)
    features = decoder(x, batch.layout, Memory.of_vectors(vectors))
    later, other = x.clone(), vectors.clone()
    later[3] += torch.randn(32)
    other[2] += torch.randn(32)
    changed = decoder(later, batch.layout, Memory.of_vectors(vectors))
    torch.testing.assert_close(changed[:3], features[:3], msg="tokens before it do not see it")
    assert not torch.allclose(changed[4], features[4])
    torch.testing.assert_close(changed[5:], features[5:])
    changed = decoder(x, batch.layout, Memory.of_vectors(other))
    torch.testing.assert_close(changed[:7], features[:7])
    assert (changed[7:] - features[7:]).abs().amax(1).min() > 1e-5


def test_noisy_and_whole_texts_belong_together(make_job: Any, pairs: Any) -> None:
    job = make_job(pairs(20, 1), objective=OBJECTIVE)
    batch = job.batches(0, 0.0, 0, None).micro_batches[0].batch
    ends, noisy = batch.extra["cu_seqlens"].tolist(), batch.cu_seqlens.tolist()
    for number, row in enumerate(batch.extra["row"].tolist()):
        whole = set(batch.extra["ids"][ends[number] : ends[number + 1]].tolist())
        kept = set(batch.ids[noisy[row] : noisy[row + 1]].tolist())
        assert kept <= whole
    assert batch.tokens < batch.extra["ids"].numel()
    assert job.counts(batch) == {"denoising": job.terms(batch)["denoising"].count}


def test_it_is_learned_and_the_decoder_is_dropped(
    make_job: Any, train_steps: Any, loaded: LoadedModel, pairs: Any, tmp_path: Path
) -> None:
    job = make_job(pairs(100, 1), pairs(30, 2), objective=OBJECTIVE, train={"micro_batch_tokens": 60})
    assert len(job.texts.indices) == 200, "every text is an example"
    assert len(job.batches(0, 0.0, 0, None).micro_batches) > 1
    losses = [step["loss"] for step in train_steps(job, 60)]
    assert losses[-1] < 0.8 * losses[0]
    head = job.objective.head
    with torch.no_grad():
        batch = job.batches(60, 0.0, 0, None).micro_batches[0].batch
        informed = float(job.terms(batch)["denoising"].total)
        head.last_vectors = lambda batch: torch.zeros(len(batch), 32)
        assert float(job.terms(batch)["denoising"].total) > informed, "the vector helps the decoder"
    del head.last_vectors
    assert "ndcg" in job.score(10_000)
    job.save(tmp_path / "model", {})
    again = load_model(tmp_path / "model")
    assert sum(p.numel() for p in again.model.parameters()) == sum(p.numel() for p in loaded.model.parameters())
    assert DenseEncoder.from_loaded(again).encode(["a1 a2"]).vectors.shape == (1, 32)
