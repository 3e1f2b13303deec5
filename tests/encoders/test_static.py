"""Static encoders: the vectors are those of a pooled model of depth 0, and other models are refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from encodery.base.errors import ArtifactError, InputError, SettingsError
from encodery.encoders.dense import DenseEncoder
from encodery.encoders.loading import encoder_name, load_dense, load_encoder
from encodery.encoders.postprocess.normalise import Normalise
from encodery.encoders.postprocess.whiten import Whiten
from encodery.encoders.postprocessing import PostProcessing
from encodery.encoders.settings import StaticSettings
from encodery.encoders.static import StaticEncoder
from encodery.encoders.static_distillation import StaticDistillationSettings, distill_static
from encodery.model.checkpoint import read_tensors, write_tensors
from encodery.model.load import LoadedModel, load_model, save_model
from encodery.model.network import build_model
from encodery.runtimes.kind.packed_int8 import PackedInt8

RNG = np.random.default_rng(7)
TEXTS = [
    " ".join(f"{RNG.choice(['a', 'b', 'c'])}{RNG.integers(40)}" for _ in range(length))
    for length in RNG.integers(1, 60, 90)
]


@pytest.fixture
def static(loaded: LoadedModel, tmp_path: Path) -> LoadedModel:
    distill_static(loaded, tmp_path / "static", StaticDistillationSettings(dimension=24))
    return load_model(tmp_path / "static")


def pooled(static: LoadedModel, settings: StaticSettings, steps: PostProcessing | None = None) -> DenseEncoder:
    """The same embeddings by the hidden states of the model."""
    return DenseEncoder(static.model, static.tokenizer, settings.as_dense(), steps, "cpu")


@pytest.mark.parametrize("max_length", [None, 12])
@pytest.mark.parametrize("postprocess", [(), (Normalise(),)])
def test_vectors_are_those_of_a_pooled_model(
    static: LoadedModel, max_length: int | None, postprocess: tuple[Normalise, ...]
) -> None:
    settings = StaticSettings(postprocess=postprocess, max_length=max_length, prompts={"query": "a1 "})
    encoder, expected = StaticEncoder(static.model, static.tokenizer, settings, device="cpu"), pooled(static, settings)
    for options in ({"truncate": "chunk"}, {"truncate": "right", "batch_tokens": 30}, {"truncate": "left"}):
        ours, theirs = (one.encode(TEXTS, role="query", **options) for one in (encoder, expected))  # type: ignore[arg-type]
        np.testing.assert_allclose(ours.vectors, theirs.vectors, atol=1e-6)
        assert ours.tokens.tolist() == theirs.tokens.tolist()
        assert ours.dropped.tolist() == theirs.dropped.tolist()
    streamed = np.concatenate([part.vectors for part in encoder.stream(iter(TEXTS), "chunk")])
    np.testing.assert_allclose(streamed, encoder.encode(TEXTS, "chunk").vectors, atol=1e-6)


def test_word_order_and_special_tokens_do_not_count(static: LoadedModel) -> None:
    encoder = load_dense(static, "cpu")
    vectors = encoder.encode(["a1 b2 c3", "c3 a1 b2", ""]).vectors
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert (vectors[2] == 0).all(), "a text without tokens has no direction"
    with torch.no_grad():
        for special in (static.tokenizer.cls_id, static.tokenizer.sep_id):
            static.model.encoder.token_embeddings[special] = 100.0
    np.testing.assert_array_equal(encoder.encode(["a1 b2 c3", "c3 a1 b2", ""]).vectors, vectors)


def test_fitted_steps_are_stored_and_loaded(static: LoadedModel, tmp_path: Path) -> None:
    settings = StaticSettings(postprocess=(Whiten(keep=8), Normalise()), prompts={"query": "a1 "})
    plain = StaticEncoder(static.model, static.tokenizer, StaticSettings(postprocess=()), device="cpu")
    steps = PostProcessing.fitted(settings.postprocess, plain.encode(TEXTS).vectors)
    encoder = StaticEncoder(static.model, static.tokenizer, settings, steps, "cpu")
    stored = encoder.stored()
    path = tmp_path / "whitened"
    save_model(path, static.model, static.tokenizer_path, settings=stored.settings, modules=stored.modules)
    again = load_encoder(load_model(path), "cpu")
    assert isinstance(again, StaticEncoder)
    assert (again.settings, again.dimension) == (settings, 8)
    np.testing.assert_array_equal(again.encode(TEXTS).vectors, encoder.encode(TEXTS).vectors)
    assert again.fingerprint == encoder.fingerprint != plain.fingerprint
    with pytest.raises(SettingsError, match="nothing fitted is stored"):
        StaticEncoder(static.model, static.tokenizer, settings)
    file = path / "modules" / "static.safetensors"
    write_tensors(file, {**read_tensors(file), "golden": stored.modules["static"]["golden"] + 0.5})
    with pytest.raises(ArtifactError, match=r"modules/static.safetensors: the embedding no longer computes"):
        load_encoder(load_model(path, verify=False), "cpu")


def test_fingerprints_follow_embeddings_and_settings(static: LoadedModel) -> None:
    def fingerprint(settings: StaticSettings) -> str:
        return StaticEncoder(static.model, static.tokenizer, settings, device="cpu").fingerprint

    plain = StaticSettings()
    assert fingerprint(plain) == fingerprint(StaticSettings())
    assert fingerprint(plain) != fingerprint(dataclasses.replace(plain, max_length=9))
    before = fingerprint(plain)
    with torch.no_grad():
        static.model.encoder.token_embeddings[20] += 1
    assert fingerprint(plain) != before


@pytest.mark.parametrize("change", ["layers", "positions", "norm"])
def test_models_that_do_more_than_to_look_up_are_refused(static: LoadedModel, loaded: LoadedModel, change: str) -> None:
    shallow, whole = static.model.settings, loaded.model.settings
    settings = {
        "layers": dataclasses.replace(shallow, depth=1),
        "positions": dataclasses.replace(shallow, positions=whole.positions, max_length=whole.max_length),
        "norm": dataclasses.replace(shallow, embedding_norm=True),
    }[change]
    if change == "positions" and settings.positions == shallow.positions:
        pytest.fail("the two models must differ in their positions")
    with pytest.raises(SettingsError, match="only looks up token embeddings"):
        StaticEncoder(build_model(settings, 0), static.tokenizer, device="cpu")


def test_a_static_model_is_opened_as_what_it_is(static: LoadedModel, loaded: LoadedModel) -> None:
    with pytest.raises(SettingsError, match="load_encoder"):
        DenseEncoder.from_loaded(static)
    with pytest.raises(SettingsError, match="is not a static model"):
        StaticEncoder.from_loaded(loaded)
    with pytest.raises(SettingsError, match="no layers that a runtime could run"):
        load_dense(static, runtime=PackedInt8())
    with pytest.raises(SettingsError, match="max_length = 2"):
        StaticEncoder(static.model, static.tokenizer, StaticSettings(max_length=2))
    with pytest.raises(InputError, match="batch_tokens"):
        load_dense(static).encode(["a1"], batch_tokens=0)


def test_a_static_model_can_be_distilled_further(static: LoadedModel, tmp_path: Path) -> None:
    distill_static(static, tmp_path / "smaller", StaticDistillationSettings(dimension=8, sif_coefficient=0.0))
    assert load_encoder(load_model(tmp_path / "smaller")).dimension == 8


def test_a_stored_name_of_another_module_is_no_encoder() -> None:
    assert encoder_name({"settings": {}, "pooling": {}}) == "dense"
    assert encoder_name({"settings": {}, "sparse": {}}) == "sparse"
