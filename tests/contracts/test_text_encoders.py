"""Contract of text encoders: the checks of `encodery.checks.encoders` on every encoder in the folder, and an export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from encodery import checks
from encodery.base.errors import UnknownName
from encodery.checks import encoders
from encodery.encoders import TextEncoder
from encodery.encoders.dense import DenseEncoder
from encodery.encoders.exported import ExportedEncoder
from encodery.encoders.loading import encoder_class, encoder_name, encoder_names, kind_of, load_dense, load_encoder
from encodery.encoders.model_encoder import ModelEncoder
from encodery.encoders.multi_vector import MultiVectorEncoder, MultiVectorSettings, TokenProjection
from encodery.encoders.settings import DenseSettings, StaticSettings
from encodery.encoders.sparse import SparseEncoder, SparseSettings, TermHead
from encodery.encoders.static import StaticEncoder
from encodery.model.load import LoadedModel, load_model, save_model
from encodery.model.network import Model, build_model
from encodery.model.positions.none import NoPositions
from encodery.model.settings import ModelSettings
from encodery.tokens.tokenizer import Tokenizer

WORDS = ["a", "the", "river", "near", "village", "old", "garden", "captain", "of", "ship"]


@pytest.fixture(scope="module")
def loaded(
    word_tokenizer: Callable[..., Tokenizer], small_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> LoadedModel:
    tokenizer = word_tokenizer(WORDS, at="spaces")
    return load_model(small_model(tmp_path_factory.mktemp("model"), tokenizer, max_length=64))


def lookup_model(loaded: LoadedModel) -> Model:
    """A model whose hidden states are its token embeddings."""
    vocab_size = loaded.model.settings.vocab_size
    return build_model(
        ModelSettings(
            width=16, depth=0, heads=1, vocab_size=vocab_size, max_length=64,
            embedding_norm=False, positions=NoPositions(), head=None,
        ),
        0,
    )  # fmt: skip


def build(name: str, loaded: LoadedModel) -> ModelEncoder:
    """An encoder with random weights."""
    torch.manual_seed(0)
    width = loaded.model.settings.width
    if name == "dense":
        return DenseEncoder(loaded.model, loaded.tokenizer, DenseSettings(), device="cpu")
    if name == "static":
        return StaticEncoder(lookup_model(loaded), loaded.tokenizer, StaticSettings(), device="cpu")
    if name == "sparse":
        return SparseEncoder(loaded.model, loaded.tokenizer, SparseSettings(terms="tokens"), "cpu", TermHead(width))
    settings = MultiVectorSettings(dimension=8, query_length=12)
    return MultiVectorEncoder(loaded.model, loaded.tokenizer, TokenProjection(width, 8), settings, "cpu")


@pytest.mark.parametrize("check", checks.functions(encoders), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", encoder_names())
def test_contract(name: str, check: checks.Check, loaded: LoadedModel) -> None:
    check(build(name, loaded))


@pytest.mark.parametrize("name", encoder_names())
def test_a_stored_encoder_is_loaded_with_equal_embeddings(name: str, loaded: LoadedModel, tmp_path: Path) -> None:
    encoder = build(name, loaded)
    stored = encoder.stored()
    path = tmp_path / "model"
    save_model(path, encoder.model, loaded.tokenizer_path, settings=stored.settings, modules=stored.modules)
    again = load_model(path)
    assert (encoder_name(again.settings), kind_of(again.settings)) == (name, encoder.kind)
    read = load_encoder(again, "cpu")
    assert type(read) is type(encoder) is encoder_class(name)
    assert read.fingerprint == encoder.fingerprint
    for one, other in zip(
        encoders.arrays_of(read, encoders.TEXTS), encoders.arrays_of(encoder, encoders.TEXTS), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_model_without_settings_is_dense(loaded: LoadedModel) -> None:
    assert encoder_names() == ["dense", "multi_vector", "sparse", "static"]
    assert isinstance(load_encoder(loaded, "cpu"), DenseEncoder)
    assert isinstance(load_dense(loaded, "cpu"), DenseEncoder)
    with pytest.raises(UnknownName, match="Did you mean 'sparse'"):
        encoder_class("sparce")


@pytest.mark.parametrize("check", checks.functions(encoders), ids=lambda check: check.__name__)
def test_contract_of_an_export(check: checks.Check, loaded: LoadedModel, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    from encodery.base.settings import decode
    from encodery.export import Exporter

    exporter: Exporter = decode(Exporter, {"is": "onnx"}, "export")
    exporter.write(loaded, tmp_path / "export")
    encoder: TextEncoder = ExportedEncoder(tmp_path / "export", threads=1)
    check(encoder)
