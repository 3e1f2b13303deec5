"""Postprocess steps that are fitted before training, through which embeddings are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encodery.base.errors import SettingsError
from encodery.embed.heldout_metrics import EncodedVectors
from encodery.encoders.dense import DenseEncoder
from encodery.model.load import load_model

WHITEN = {"objective": {"is": "dense", "whiten_before_training": True}}
WHITENED: dict[str, Any] = {**WHITEN, "encoder": {"postprocess": [{"is": "whiten", "power": 1.0}, "normalise"]}}


def test_embeddings_are_trained_through_steps_that_stay_as_they_were_fitted(
    make_job: Any, train_steps: Any, pairs: Any, tmp_path: Path
) -> None:
    job, plain = make_job(pairs(200, 1), pairs(60, 2), **WHITENED), make_job(pairs(200, 1), pairs(60, 2))
    head = job.objective.head
    through = job.module["postprocess"]
    fitted = {name: buffer.clone() for name, buffer in through.named_buffers()}
    vectors = torch.from_numpy(head.sample(job.texts))
    expected = through.postprocessing().apply(vectors.numpy())
    np.testing.assert_allclose(torch.nn.functional.normalize(through(vectors), dim=1).numpy(), expected, atol=1e-4)
    assert through(vectors).var(0).max() < 1.05, "the variance is the same in all directions"
    assert through(vectors).mean(0).abs().max() < 1e-3, "the common mean is removed"
    before = job.score(100_000)["ndcg"]
    losses, plain_losses = train_steps(job, 60), train_steps(plain, 60)
    assert losses[0] != plain_losses[0], "the loss sees whitened embeddings"
    assert job.score(100_000)["ndcg"] > before + 0.2
    for name, buffer in through.named_buffers():
        assert torch.equal(buffer, fitted[name]), "training does not change them"
    job.save(tmp_path / "model", {})
    encoder = DenseEncoder.from_loaded(load_model(tmp_path / "model"))
    compared = job.objective.compare(job.dev.pool, np.arange(20))
    assert isinstance(compared, EncodedVectors)
    np.testing.assert_allclose(encoder.encode(job.dev.pool.texts[:20]).vectors, compared.vectors, atol=1e-4)


def test_a_resumed_run_keeps_the_steps_that_were_fitted_at_its_start(
    make_job: Any, train_steps: Any, pairs: Any
) -> None:
    job = make_job(pairs(64, 1), **WHITENED)
    train_steps(job, 4)
    resumed = make_job(pairs(64, 7), **WHITENED)
    first, second = job.module["postprocess"], resumed.module["postprocess"]
    assert not torch.equal(second.weight, first.weight)
    resumed.module.load_state_dict(job.module.state_dict())
    for one, other in zip(second.postprocessing().states, first.postprocessing().states, strict=True):
        for name in other:
            np.testing.assert_array_equal(one[name], other[name])
    vectors = torch.randn(5, second.weight.shape[0])
    assert torch.equal(second(vectors), first(vectors))


def test_steps_that_cannot_be_fitted_before_training_are_refused(make_job: Any, pairs: Any) -> None:
    for steps, message in (
        (["normalise"], "none of the postprocess steps is fitted"),
        (["normalise", "whiten"], "normalise"),
    ):
        with pytest.raises(SettingsError, match=message):
            make_job(pairs(16, 1), **WHITEN, encoder={"postprocess": steps})
    truncated = {"postprocess": [{"is": "truncate", "keep": 12}, {"is": "whiten", "keep": 8}, "normalise"]}
    assert make_job(pairs(64, 1), **WHITEN, encoder=truncated).module["postprocess"].weight.shape[1] == 8
