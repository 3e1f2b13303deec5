"""A model is measured by its kind of embedding: sparse term weights by inner product, multi-vector by MaxSim."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from encodery.base.errors import InputError
from encodery.base.settings import encode
from encodery.encoders import multi_vector, sparse
from encodery.encoders.multi_vector import (
    MultiVectorEncoder,
    MultiVectorSettings,
    TokenProjection,
    golden_token_vectors,
)
from encodery.encoders.sparse import SparseEncoder, SparseSettings
from encodery.evaluate.suites.retrieval import JudgedQueries, RetrievalSuite
from encodery.evaluate.systems import UnsupportedEvaluation, model
from encodery.evaluate.systems.model import ModelSystem
from encodery.model.load import load_model, save_model

DOCUMENTS = {f"d{n}": text for n, text in enumerate(("the quiet river", "a captain", "the old garden near winter", ""))}
QUERIES = {"q0": "river near the village", "q1": "captain, captain"}
ITEMS = JudgedQueries(DOCUMENTS, QUERIES, {"q0": {"d0": 1}, "q1": {"d1": 1}}, 0)


@pytest.fixture
def weights(run: Path, tmp_path: Path) -> Path:
    loaded = load_model(run)
    config = SparseSettings(query_encoding="bow", prompts={"document": "the letter "})
    save_model(tmp_path / "weights", loaded.model, loaded.tokenizer_path, settings={sparse.KEY: encode(config)})
    return tmp_path / "weights"


@pytest.fixture
def tokens(run: Path, tmp_path: Path) -> Path:
    loaded, config = load_model(run), MultiVectorSettings(dimension=16, query_length=12)
    torch.manual_seed(0)
    projection = TokenProjection(loaded.model.settings.width, 16)
    kept = {name: tensor.detach() for name, tensor in projection.state_dict().items()}
    kept["golden"] = golden_token_vectors(MultiVectorEncoder(loaded.model, loaded.tokenizer, projection, config, "cpu"))
    told_all, modules = {multi_vector.KEY: encode(config)}, {multi_vector.KEY: kept}
    save_model(tmp_path / "tokens", loaded.model, loaded.tokenizer_path, settings=told_all, modules=modules)
    return tmp_path / "tokens"


def as_array(run_scores: dict[str, dict[str, float]]) -> np.ndarray:
    return np.array([[run_scores[query].get(document, 0.0) for document in DOCUMENTS] for query in QUERIES])


def test_word_weights_are_compared_by_inner_product(weights: Path) -> None:
    system = ModelSystem(path=str(weights)).open()
    run_scores = as_array(RetrievalSuite(k=1, depth=4).ranked(ITEMS, system))
    encoder = SparseEncoder.from_loaded(load_model(weights))
    expected = np.zeros(run_scores.shape)
    held = encoder.encode(list(DOCUMENTS.values()), prompt="document")
    for i, query in enumerate(QUERIES.values()):
        words, counts = encoder.encode([query], prompt="query").at(0)
        for j in range(len(DOCUMENTS)):
            known = dict(zip(*(part.tolist() for part in held.at(j)), strict=True))
            expected[i, j] = sum(known.get(word, 0.0) * n for word, n in zip(words.tolist(), counts, strict=True))
    assert expected.std() > 0
    np.testing.assert_allclose(run_scores, expected, rtol=1e-4)
    assert (system.counters.texts, system.counters.dropped) == (6, 0)


def test_token_vectors_are_compared_by_max_sim(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = MultiVectorEncoder.from_loaded(load_model(tokens))
    query_embeddings, held = (
        encoder.encode(list(t.values()), prompt=p) for t, p in ((QUERIES, "query"), (DOCUMENTS, "document"))
    )
    expected = query_embeddings.similarity(held)
    for some in (1024, 3):
        monkeypatch.setattr(model, "DOCUMENTS_AT_ONCE", some)
        system = ModelSystem(path=str(tokens)).open()
        np.testing.assert_allclose(as_array(RetrievalSuite(k=1, depth=4).ranked(ITEMS, system)), expected, rtol=1e-4)
        best = RetrievalSuite(k=1, depth=1).ranked(ITEMS, system)
        assert [list(best[query]) for query in QUERIES] == [[f"d{n}"] for n in expected.argmax(1)]
    with pytest.raises(UnsupportedEvaluation, match="only retrieval"):
        system.encode(["x"])


def test_sides_of_such_models_have_their_own_prompts(weights: Path, tokens: Path) -> None:
    for path in (weights, tokens):
        with pytest.raises(InputError, match="query = 'short'"):
            ModelSystem(path=str(path), query="short").open()
        assert ModelSystem(path=str(path), query="query").open()
