"""What a finished run stores: pooling, postprocessing and layers are those that were trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encodery.base.errors import ArtifactError, SettingsError
from encodery.base.settings import decode
from encodery.encoders.dense import DenseEncoder, first_layers
from encodery.encoders.settings import DenseSettings
from encodery.model.load import LoadedModel, load_model

PROMPTS = {"query": "a ", "document": "b "}


@pytest.mark.parametrize("pooling", ["mean", "attention", "latent_attention"])
def test_the_loaded_encoder_equals_the_trained_one(
    pooling: str, make_job: Any, train_steps: Any, loaded: LoadedModel, pairs: Any, tmp_path: Path
) -> None:
    steps = [{"is": "whiten", "keep": 8}, {"is": "normalise"}]
    encoder_settings = {"pooling": {"is": pooling}, "postprocess": steps, "prompts": PROMPTS}
    job = make_job(pairs(64, 1), encoder=encoder_settings, dropout=0.1)
    train_steps(job, 6)
    job.save(tmp_path / "model", {})
    again = load_model(tmp_path / "model")
    assert again.model.settings == loaded.model.settings, "the dropout of training is not stored"
    encoder = DenseEncoder.from_loaded(again)
    assert encoder.dimension == 8
    vectors = encoder.encode(["a1 a2"], prompt="query").vectors
    np.testing.assert_allclose(np.linalg.norm(vectors), 1, atol=1e-5)
    indices, head = job.texts.indices[:4, 0], job.objective.head
    expected = head.postprocessing(job.texts).apply(head.encode(job.texts.pool, indices))
    texts = [job.texts.pool.texts[int(n)] for n in indices]
    np.testing.assert_allclose(encoder.encode(texts, prompt="query").vectors, expected, atol=1e-5)
    assert again.artifact is not None
    assert loaded.artifact is not None
    assert again.artifact.manifest.parents["model"]["fingerprint"] == loaded.artifact.manifest.fingerprint


def test_missing_weights_are_not_replaced_by_random_ones(loaded: LoadedModel) -> None:
    for settings in ({"pooling": "attention"}, {"postprocess": ["whiten"]}):
        with pytest.raises(SettingsError):
            DenseEncoder(loaded.model, loaded.tokenizer, decode(DenseSettings, settings))


def test_an_altered_encoder_is_refused(make_job: Any, train_steps: Any, pairs: Any, tmp_path: Path) -> None:
    job = make_job(pairs(32, 1), encoder={"pooling": "attention"})
    train_steps(job, 3, lr=0.1)
    job.save(tmp_path / "model", {})
    manifest = tmp_path / "model" / "manifest.json"
    table = json.loads(manifest.read_text())
    table["settings"]["dense"]["pooling"] = {"is": "mean", "include_special_tokens": False}
    manifest.write_text(json.dumps(table))
    with pytest.raises((ArtifactError, RuntimeError)):
        DenseEncoder.from_loaded(load_model(tmp_path / "model", verify=False))


def test_training_continues_from_a_trained_pooling(make_job: Any, train_steps: Any, pairs: Any, tmp_path: Path) -> None:
    encoder = {"pooling": "attention"}
    job = make_job(pairs(32, 1), encoder=encoder)
    train_steps(job, 3, lr=0.05)
    job.save(tmp_path / "model", {})
    further = make_job(pairs(32, 1), model=load_model(tmp_path / "model"), encoder=encoder)
    for one, other in zip(job.module["pooling"].parameters(), further.module["pooling"].parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_fewer_layers_in_use_are_those_that_were_trained(
    make_job: Any, train_steps: Any, loaded: LoadedModel, pairs: Any
) -> None:
    loss = {"is": "matryoshka_layers", "loss": {"is": "matryoshka", "loss": {"is": "infonce"}, "dims": [8]}}
    job = make_job(pairs(64, 1), loss=loss)
    batch = job.batches(0, 0.0, 0, None).micro_batches[0].batch
    assert batch.extra["layers"].tolist() == [1]
    job.module.eval()
    with torch.no_grad():
        early = job.objective.head.vectors(batch, [1])[:, 1]
        cut = DenseEncoder(job.model, loaded.tokenizer, DenseSettings(layers=1), device="cpu")
        torch.testing.assert_close(cut.pool_batch(batch), early)
    assert len(first_layers(job.model, 1).encoder.blocks) == 1
    assert len(job.model.encoder.blocks) == 2
    job.module.train()
    losses = train_steps(job, 10)
    assert losses[-1]["loss"] < losses[0]["loss"]
    with pytest.raises(SettingsError, match="layers = 3: the model has 2"):
        first_layers(job.model, 3)
    with pytest.raises(SettingsError, match="joins several"):
        make_job(pairs(20, 1), loss=loss, encoder={"pooling": "layers"})
