"""Sparse embeddings over a text's own tokens: weights against a loop, gradients, queries as bags of tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from encodery.base.errors import SettingsError
from encodery.base.settings import decode
from encodery.encoders.embeddings import SparseEmbeddings
from encodery.encoders.sparse import (
    SparseEncoder,
    SparseSettings,
    TermHead,
    bag_of_words,
    regular_tokens,
    term_weights,
    token_counts,
)
from encodery.model.load import LoadedModel
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch

CPU = torch.device("cpu")
TOKENS = SparseSettings(terms="tokens", query_encoding="bow")


def dense(embeddings: SparseEmbeddings, vocab: int) -> np.ndarray:
    rows = np.zeros((len(embeddings), vocab), np.float32)
    for number in range(len(embeddings)):
        words, weights = embeddings.at(number)
        rows[number, words] = weights
    return rows


def head(width: int, seed: int = 0) -> TermHead:
    torch.manual_seed(seed)
    made = TermHead(width)
    torch.nn.init.normal_(made.linear.weight, std=1.0)
    return made


def encoder(loaded: LoadedModel, **settings: Any) -> SparseEncoder:
    config = decode(SparseSettings, {"terms": "tokens", "query_encoding": "bow", **settings})
    return SparseEncoder(loaded.model, loaded.tokenizer, config, CPU, head(32))


def test_weights_are_those_of_the_highest_of_equal_tokens(loaded: LoadedModel) -> None:
    """Against a loop over sequences and tokens."""
    made, plain = head(32), regular_tokens(loaded.tokenizer, 128)
    sequences = [[2, 7, 9, 7, 7, 3], [2, 3], [2, 1, 11, 3, 9]]
    batch = Batch.from_sequences(sequences)
    with torch.inference_mode():
        embeddings = term_weights(loaded.model.eval(), made, batch, plain)
        hidden = loaded.model(batch).hidden
        place, expected = 0, torch.zeros(3, 128)
        for row, sequence in enumerate(sequences):
            for token in sequence:
                weight = float(hidden[place] @ made.linear.weight[0] + made.linear.bias[0])
                if token > 4:  # the first five are special
                    expected[row, token] = max(float(expected[row, token]), weight, 0.0)
                place += 1
    torch.testing.assert_close(embeddings, expected, rtol=1e-5, atol=1e-6)
    assert (expected[0] > 0).sum() >= 1
    assert embeddings[1].sum() == 0
    assert (embeddings[:, :5] == 0).all()


def test_the_gradient_goes_to_the_highest_alone() -> None:
    model = build_model(ModelSettings(width=16, depth=0, heads=2, vocab_size=32, max_length=16), 0)
    made = TermHead(16)
    batch = Batch.from_sequences([[7, 7, 9]])
    weights = term_weights(model, made, batch, torch.ones(32, dtype=torch.bool))
    kept = model.encoder(batch).hidden.detach()
    best = int(made.scores(kept)[:2].argmax())
    (gradient,) = torch.autograd.grad(weights[0, 7], made.linear.weight)
    torch.testing.assert_close(gradient[0], kept[best])


def test_queries_are_counted(loaded: LoadedModel) -> None:
    made = encoder(loaded)
    text = "a1 a2 a1 zzz"
    one, two = (int(loaded.tokenizer.encode(word)[0]) for word in ("a1", "a2"))
    words, counts = made.encode([text], prompt="query").at(0)
    assert dict(zip(words.tolist(), counts.tolist(), strict=True)) == {one: 2.0, two: 1.0}
    long = " ".join(["a1"] * 200)  # far beyond what the model takes
    assert made.encode([long, ""], prompt="query").at(0)[1].tolist() == [200.0]
    assert len(made.encode([long, ""], prompt="query").at(1)[0]) == 0
    batch = Batch.from_sequences([loaded.tokenizer.encode(text, add_special_tokens=True).tolist()])
    packed = token_counts(batch, 128, regular_tokens(loaded.tokenizer, 128))
    np.testing.assert_array_equal(packed.numpy(), dense(bag_of_words(loaded.tokenizer, [text]), 128))


def test_documents_are_read_whole_and_windows_agree(loaded: LoadedModel) -> None:
    made = encoder(loaded)
    words = [f"a{i}" for i in range(20)]  # 14 fit
    whole = made.encode([" ".join(words)], truncate="chunk", prompt="document")
    parts = made.encode([" ".join(words[:10]), " ".join(words[10:])])
    np.testing.assert_allclose(dense(whole, 128)[0], dense(parts, 128).max(axis=0), rtol=1e-4)
    held = set(loaded.tokenizer.encode(" ".join(words)).tolist())
    assert set(whole.at(0)[0].tolist()) <= held


def test_a_head_that_is_missing_or_useless(loaded: LoadedModel) -> None:
    with pytest.raises(SettingsError, match="needs a separate term head"):
        SparseEncoder(loaded.model, loaded.tokenizer, TOKENS)
    with pytest.raises(SettingsError, match="does not use a separate"):
        SparseEncoder(loaded.model, loaded.tokenizer, SparseSettings(), head=TermHead(32))
    bare = build_model(ModelSettings(width=32, depth=1, heads=2, vocab_size=128, max_length=16, head=None), 0)
    assert len(SparseEncoder(bare, loaded.tokenizer, TOKENS, CPU, TermHead(32)).encode(["a1 b2"]).term_ids) == 2
