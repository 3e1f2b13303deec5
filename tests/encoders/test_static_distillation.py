"""Static models: their vectors, the weights of rare tokens, and that they load like any other model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from encodery.base.errors import SettingsError
from encodery.encoders.dense import DenseEncoder
from encodery.encoders.loading import load_encoder
from encodery.encoders.static import StaticEncoder
from encodery.encoders.static_distillation import StaticDistillationSettings, distill_static, principal_components
from encodery.model.load import LoadedModel, load_model


def test_a_text_is_the_mean_of_its_tokens(loaded: LoadedModel, tmp_path: Path) -> None:
    artifact = distill_static(
        loaded, tmp_path / "static", StaticDistillationSettings(dimension=16, sif_coefficient=0.0)
    )
    static = load_model(tmp_path / "static")
    assert static.model.settings.depth == 0
    encoder = load_encoder(static)
    assert isinstance(encoder, StaticEncoder)
    assert encoder.dimension == 16
    table = static.model.encoder.token_embeddings.detach().numpy()
    ids = static.tokenizer.encode("a1 b2 b2").astype(int)
    expected = table[ids].mean(axis=0)
    result = encoder.encode(["a1 b2 b2", "b2 a1 b2", "", "a1"]).vectors
    np.testing.assert_allclose(result[0], expected / np.linalg.norm(expected), atol=1e-6)
    np.testing.assert_allclose(result[1], result[0], atol=1e-6)
    assert (result[2] == 0).all(), "an empty text"
    assert 0 < artifact.manifest.metrics["variance_kept"] <= 1
    assert encoder.encode(["a1 " * 9000]).dropped.sum() == 0, "no text is too long"


def test_static_vectors_keep_the_teachers_similarities(loaded: LoadedModel, tmp_path: Path) -> None:
    """At full dimension and without weights, the static vectors are the teacher's vectors of single tokens, rotated and
    centred."""
    distill_static(loaded, tmp_path / "static", StaticDistillationSettings(dimension=32, sif_coefficient=0.0))
    table = load_model(tmp_path / "static").model.encoder.token_embeddings.detach().numpy()
    texts = [f"a{i}" for i in range(40)] + [f"b{i}" for i in range(40)] + ["a", "b", "c"]
    theirs = DenseEncoder.from_loaded(loaded).encode(texts).vectors
    theirs = theirs - theirs.mean(axis=0)
    ours = table[[int(loaded.tokenizer.encode(text)[0]) for text in texts]]
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-4)


def test_rare_tokens_have_higher_weights(loaded: LoadedModel, tmp_path: Path) -> None:
    texts = ["a1 a1 a1 a1 a2"] * 50
    plain = StaticDistillationSettings(dimension=32, sif_coefficient=0.0)
    distill_static(loaded, tmp_path / "plain", plain, texts)
    distill_static(loaded, tmp_path / "static", StaticDistillationSettings(dimension=32, sif_coefficient=0.01), texts)
    before, after = (
        load_model(tmp_path / name).model.encoder.token_embeddings.detach().numpy() for name in ("plain", "static")
    )
    weight = {
        word: float(np.linalg.norm(after[i]) / np.linalg.norm(before[i]))
        for word in ("a1", "a2", "b7")
        for i in [int(loaded.tokenizer.encode(word)[0])]
    }
    counts = {"a1": 201, "a2": 51, "b7": 1}
    total = 250 + loaded.model.settings.vocab_size
    for word, count in counts.items():
        assert weight[word] == pytest.approx(0.01 / (0.01 + count / total), rel=1e-3)


def test_principal_components_keep_the_variance() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((200, 6)) * np.array([5, 3, 1, 0.1, 0.1, 0.1])
    reduced, kept = principal_components(vectors, 2)
    assert reduced.shape == (200, 2)
    assert kept == pytest.approx(34 / 35.03, abs=0.03)
    assert reduced[:, 0].std() > reduced[:, 1].std()
    with pytest.raises(SettingsError, match="dimension = 0"):
        StaticDistillationSettings(dimension=0)
