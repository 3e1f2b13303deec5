"""Sparse embeddings over the vocabulary: weights against the head's logits, `keep`, windows of long texts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from encodery.base.errors import SettingsError
from encodery.encoders.embeddings import SparseEmbeddings
from encodery.encoders.sparse import SparseEncoder, SparseSettings, vocabulary_weights
from encodery.model.load import LoadedModel
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch

CPU = torch.device("cpu")
TEXTS = ["a1 a2 b3", "", "a4", "a1 a1 a1 b2 b2 c a b"]


def dense(embeddings: SparseEmbeddings, vocab: int) -> np.ndarray:
    rows = np.zeros((len(embeddings), vocab), np.float32)
    for number in range(len(embeddings)):
        words, weights = embeddings.at(number)
        rows[number, words] = weights
    return rows


def test_weights_are_the_highest_of_the_heads_scores(loaded: LoadedModel) -> None:
    batch = Batch.from_sequences([[2, 7, 9, 3], [2, 3], [2, 11, 3]])
    with torch.inference_mode():
        embeddings = vocabulary_weights(loaded.model.eval(), batch)
        logits = loaded.model.mlm_head(loaded.model(batch).hidden, loaded.model.encoder)
    for row, part in zip(embeddings, torch.split(logits, [4, 2, 3]), strict=True):
        torch.testing.assert_close(row, torch.log1p(torch.relu(part)).amax(0))


def test_texts_become_sparse_term_weights(loaded: LoadedModel) -> None:
    encoder = SparseEncoder(loaded.model, loaded.tokenizer, device=CPU)
    embeddings = encoder.encode(TEXTS, batch_tokens=9)
    assert len(embeddings) == 4
    assert embeddings.dropped.tolist() == [0, 0, 0, 0]
    for number, text in enumerate(TEXTS):
        words, weights = embeddings.at(number)
        assert (np.diff(words) > 0).all()
        assert (weights > 0).all()
        again = encoder.encode([text])
        np.testing.assert_array_equal(again.at(0)[0], words)
        np.testing.assert_allclose(again.at(0)[1], weights, rtol=1e-4, atol=1e-6)
    kept = SparseEncoder(loaded.model, loaded.tokenizer, SparseSettings(keep=3), CPU).encode(TEXTS)
    for number in range(4):
        heaviest = np.sort(embeddings.at(number)[1])[-3:]
        np.testing.assert_allclose(np.sort(kept.at(number)[1]), heaviest, rtol=1e-4)


def test_a_long_text_has_the_highest_weight_of_its_windows(loaded: LoadedModel) -> None:
    encoder = SparseEncoder(loaded.model, loaded.tokenizer, device=CPU)
    words = [f"a{i}" for i in range(20)]  # 14 fit
    whole, parts = (
        encoder.encode([" ".join(words)], truncate="chunk"),
        encoder.encode([" ".join(words[:10]), " ".join(words[10:])]),
    )
    np.testing.assert_allclose(dense(whole, 128)[0], dense(parts, 128).max(axis=0), rtol=1e-4)


def test_a_head_is_needed(loaded: LoadedModel) -> None:
    model = build_model(ModelSettings(width=16, depth=1, heads=2, vocab_size=128, max_length=16, head=None), 0)
    with pytest.raises(SettingsError, match="has none"):
        SparseEncoder(model, loaded.tokenizer)
