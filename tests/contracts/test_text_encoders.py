"""Contract of text encoders: the checks of `encodery.checks.encoders` on every kind in the folder, and an export."""

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
from encodery.encoders.loading import encoder_class, kind_of, kinds, load_encoder
from encodery.encoders.model_encoder import ModelEncoder
from encodery.encoders.multi_vector import MultiVectorEncoder, MultiVectorSettings, TokenProjection
from encodery.encoders.settings import DenseSettings
from encodery.encoders.sparse import SparseEncoder, SparseSettings, TermHead
from encodery.model.load import LoadedModel, load_model, save_model
from encodery.tokens.tokenizer import Tokenizer

WORDS = ["a", "the", "river", "near", "village", "old", "garden", "captain", "of", "ship"]


@pytest.fixture(scope="module")
def loaded(
    word_tokenizer: Callable[..., Tokenizer], small_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> LoadedModel:
    tokenizer = word_tokenizer(WORDS, at="spaces")
    return load_model(small_model(tmp_path_factory.mktemp("model"), tokenizer, max_length=64))


def build(kind: str, loaded: LoadedModel) -> ModelEncoder:
    """An encoder of a kind with random weights."""
    torch.manual_seed(0)
    width = loaded.model.settings.width
    if kind == "dense":
        return DenseEncoder(loaded.model, loaded.tokenizer, DenseSettings(), device="cpu")
    if kind == "sparse":
        return SparseEncoder(loaded.model, loaded.tokenizer, SparseSettings(terms="tokens"), "cpu", TermHead(width))
    settings = MultiVectorSettings(dimension=8, query_length=12)
    return MultiVectorEncoder(loaded.model, loaded.tokenizer, TokenProjection(width, 8), settings, "cpu")


@pytest.mark.parametrize("check", checks.functions(encoders), ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", kinds())
def test_contract(kind: str, check: checks.Check, loaded: LoadedModel) -> None:
    check(build(kind, loaded))


@pytest.mark.parametrize("kind", kinds())
def test_a_stored_encoder_is_loaded_with_equal_embeddings(kind: str, loaded: LoadedModel, tmp_path: Path) -> None:
    encoder = build(kind, loaded)
    stored = encoder.stored()
    path = tmp_path / "model"
    save_model(path, loaded.model, loaded.tokenizer_path, settings=stored.settings, modules=stored.modules)
    again = load_model(path)
    assert kind_of(again.settings) == kind
    read = load_encoder(again, "cpu")
    assert type(read) is encoder_class(kind)
    for one, other in zip(
        encoders.arrays_of(read, encoders.TEXTS), encoders.arrays_of(encoder, encoders.TEXTS), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_model_without_settings_is_dense(loaded: LoadedModel) -> None:
    assert kinds() == ["dense", "multi_vector", "sparse"]
    assert isinstance(load_encoder(loaded, "cpu"), DenseEncoder)
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
