"""Training that starts from a static model: pooled in the same way, static afterwards, and dense if told so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encodery.embed.planning import recipe_settings
from encodery.embed.postprocess_fitting import fit_postprocess
from encodery.embed.source_encoder import has_single_vectors, stored_dense_settings
from encodery.encoders.dense import DenseEncoder
from encodery.encoders.loading import load_encoder
from encodery.encoders.settings import STATIC_POOLING
from encodery.encoders.static import StaticEncoder
from encodery.encoders.static_distillation import StaticDistillationSettings, distill_static
from encodery.model.load import LoadedModel, load_model


@pytest.fixture
def static(loaded: LoadedModel, tmp_path: Path) -> LoadedModel:
    distill_static(loaded, tmp_path / "static", StaticDistillationSettings(dimension=16))
    return load_model(tmp_path / "static")


@pytest.mark.parametrize("postprocess", [["normalise"], [{"is": "whiten", "keep": 8}, "normalise"]])
def test_a_static_model_stays_static(
    static: LoadedModel, make_job: Any, train_steps: Any, pairs: Any, tmp_path: Path, postprocess: list[Any]
) -> None:
    encoder = {**stored_dense_settings(static.settings), "postprocess": postprocess}
    job = make_job(pairs(64, 1), model=static, encoder=encoder)
    losses = train_steps(job, 10, lr=0.02)
    assert losses[-1]["loss"] < losses[0]["loss"]
    job.save(tmp_path / "model", {})
    again = load_encoder(load_model(tmp_path / "model"), "cpu")
    assert isinstance(again, StaticEncoder)
    indices, head = job.texts.indices[:9, 0], job.objective.head
    expected = head.postprocessing(job.texts).apply(head.encode(job.texts.pool, indices))
    texts = [job.texts.pool.texts[int(n)] for n in indices]
    np.testing.assert_allclose(again.encode(texts).vectors, expected, atol=1e-5)
    before = load_encoder(static, "cpu")
    assert again.fingerprint != before.fingerprint


def test_another_pooling_makes_it_dense(static: LoadedModel, make_job: Any, pairs: Any, tmp_path: Path) -> None:
    job = make_job(pairs(32, 1), model=static, encoder={"pooling": "mean"})
    job.save(tmp_path / "model", {})
    assert isinstance(load_encoder(load_model(tmp_path / "model")), DenseEncoder)


def test_recipes_continue_the_stored_encoder(static: LoadedModel, loaded: LoadedModel) -> None:
    assert recipe_settings("base", {}, static).encoder.pooling == STATIC_POOLING
    assert recipe_settings("base", {"encoder": {"pooling": "cls"}}, static).encoder.pooling != STATIC_POOLING
    assert recipe_settings("base", {}, loaded).encoder.pooling != STATIC_POOLING
    assert has_single_vectors(static.settings)
    assert not has_single_vectors(loaded.settings)
    assert stored_dense_settings(loaded.settings) == {}


def test_steps_are_fitted_to_a_static_model(static: LoadedModel, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sentences = [" ".join(f"a{i}" for i in rng.integers(0, 40, 4)) for _ in range(200)]
    whiten = {"postprocess": [{"is": "whiten", "keep": 8}, "normalise"]}
    fit_postprocess(static, sentences, tmp_path / "white", whiten)
    again = load_model(tmp_path / "white")
    encoder = load_encoder(again, "cpu")
    assert isinstance(encoder, StaticEncoder)
    assert encoder.encode(sentences[:3]).vectors.shape == (3, 8)
    fit_postprocess(again, sentences, tmp_path / "dense", {**whiten, "pooling": "cls"})
    changed = load_model(tmp_path / "dense")
    assert isinstance(load_encoder(changed, "cpu"), DenseEncoder)
    assert "static" not in changed.settings
    assert list(changed.modules()) == ["dense"], "tensors of the earlier encoder are not kept"
