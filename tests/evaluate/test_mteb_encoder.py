"""The encoder for mteb, without mteb: what each kind of model gives, and how it is compared."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from encodery.base.errors import SettingsError
from encodery.base.settings import encode
from encodery.encoders.multi_vector import MultiVectorEncoder, MultiVectorSettings, TokenProjection
from encodery.encoders.sparse import SparseSettings
from encodery.encoders.static_distillation import StaticDistillationSettings, distill_static
from encodery.evaluate.mteb import MTEBEncoder
from encodery.model.load import load_model, save_model

RETRIEVAL = SimpleNamespace(name="Local", type="Retrieval", simplified_task_type="retrieval")
STS = SimpleNamespace(name="Local", type="STS", simplified_task_type="similarity")
QUERIES, DOCUMENTS = ["a quiet river", "the captain"], ["the river", "the old garden", "a captain and a captain"]


def encoded(encoder: MTEBEncoder, texts: list[str], task: Any, role: str | None = None) -> Any:
    batches = [{"text": texts[:1]}, {"text": texts[1:]}]
    return encoder.encode(
        batches, task_metadata=task, prompt_type=None if role is None else SimpleNamespace(value=role)
    )


@pytest.fixture
def sparse(run: Path, tmp_path: Path) -> Path:
    loaded, settings = load_model(run), SparseSettings(query_encoding="bow", prompts={"document": "the letter "})
    save_model(tmp_path / "sparse", loaded.model, loaded.tokenizer_path, settings={"sparse": encode(settings)})
    return tmp_path / "sparse"


def test_a_static_model_is_compared_by_cosine(run: Path, tmp_path: Path) -> None:
    distill_static(load_model(run), tmp_path / "static", StaticDistillationSettings(dimension=8))
    encoder = MTEBEncoder(tmp_path / "static", device="cpu")
    vectors = encoded(encoder, DOCUMENTS, RETRIEVAL)
    np.testing.assert_array_equal(vectors, encoder.encoder.encode(DOCUMENTS).vectors)
    np.testing.assert_allclose(np.diag(encoder.similarity(vectors, 3 * vectors)), 1, atol=1e-5)
    np.testing.assert_allclose(encoder.similarity_pairwise(vectors, 3 * vectors), 1, atol=1e-5)


def test_a_sparse_model_is_compared_by_inner_product(sparse: Path) -> None:
    encoder = MTEBEncoder(sparse, device="cpu")
    queries, documents = (
        encoded(encoder, QUERIES, RETRIEVAL, "query"),
        encoded(encoder, DOCUMENTS, RETRIEVAL, "document"),
    )
    assert documents.is_sparse
    assert documents.shape == (3, encoder.encoder.dimension)
    own = encoder.encoder
    of_queries, of_documents = own.encode(QUERIES, role="query"), own.encode(DOCUMENTS, role="document")
    expected = own.similarity(of_queries, of_documents)
    assert len(np.unique(expected)) > 2
    np.testing.assert_allclose(encoder.similarity(queries, documents), expected, rtol=1e-5)
    np.testing.assert_allclose(encoder.similarity(queries[0].to_dense(), documents)[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(
        encoder.similarity_pairwise(queries, documents.to_dense()[:2].numpy()), np.diag(expected), rtol=1e-5
    )


def test_tasks_that_cannot_read_sparse_tensors_get_arrays(sparse: Path) -> None:
    encoder = MTEBEncoder(sparse, device="cpu")
    reranking = SimpleNamespace(name="Local", type="Reranking", simplified_task_type="retrieval")
    tensor = encoded(encoder, DOCUMENTS, RETRIEVAL, "document").to_dense().numpy()
    for task in (STS, reranking):
        array = encoded(encoder, DOCUMENTS, task, "document")
        assert isinstance(array, np.ndarray)
        np.testing.assert_array_equal(array, tensor)


def test_a_multi_vector_model_is_refused(run: Path, tmp_path: Path) -> None:
    loaded, settings = load_model(run), MultiVectorSettings(dimension=16)
    torch.manual_seed(0)
    projection = TokenProjection(loaded.model.settings.width, 16)
    stored = MultiVectorEncoder(loaded.model, loaded.tokenizer, projection, settings, "cpu").stored()
    path = tmp_path / "tokens"
    save_model(path, loaded.model, loaded.tokenizer_path, settings=stored.settings, modules=stored.modules)
    with pytest.raises(SettingsError, match="is a multi-vector model"):
        MTEBEncoder(path)
