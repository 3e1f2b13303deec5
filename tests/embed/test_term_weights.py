"""Weights of a text's own tokens: what they are, queries as bags of tokens, that they are learned and come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encodery.base.errors import ArtifactError, SettingsError
from encodery.base.settings import decode
from encodery.embed.data import EmbeddingExamples
from encodery.embed.planning import recipe_settings
from encodery.embed.sparse_job import SparseJob
from encodery.embed.training import EmbedTraining
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
from encodery.model.checkpoint import read_tensors, write_tensors
from encodery.model.load import MODULES, LoadedModel, load_model
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
from encodery.tokens.tokenizer import Tokenizer
from encodery.train.distributed import DistributedContext
from encodery.train.execution.plain import Plain
from encodery.train.optim.adamw import AdamW
from encodery.train.step import forward_backward

CPU = torch.device("cpu")
TOKENS = SparseSettings(terms="tokens", query_encoding="bow")


def dense(found: SparseEmbeddings, vocab: int) -> np.ndarray:
    rows = np.zeros((len(found), vocab), np.float32)
    for number in range(len(found)):
        words, weights = found.at(number)
        rows[number, words] = weights
    return rows


def head(width: int, seed: int = 0) -> TermHead:
    torch.manual_seed(seed)
    made = TermHead(width)
    torch.nn.init.normal_(made.linear.weight, std=1.0)
    return made


def encoder(loaded: LoadedModel, **settings: Any) -> SparseEncoder:
    told = decode(SparseSettings, {"terms": "tokens", "query_encoding": "bow", **settings})
    return SparseEncoder(loaded.model, loaded.tokenizer, told, CPU, head(32))


def test_weights_are_those_of_the_highest_of_equal_tokens(loaded: LoadedModel) -> None:
    """Against a loop over sequences and tokens."""
    made, plain = head(32), regular_tokens(loaded.tokenizer, 128)
    sequences = [[2, 7, 9, 7, 7, 3], [2, 3], [2, 1, 11, 3, 9]]
    batch = Batch.from_sequences(sequences)
    with torch.inference_mode():
        found = term_weights(loaded.model.eval(), made, batch, plain)
        hidden = loaded.model(batch).hidden
        place, expected = 0, torch.zeros(3, 128)
        for row, sequence in enumerate(sequences):
            for token in sequence:
                weight = float(hidden[place] @ made.linear.weight[0] + made.linear.bias[0])
                if token > 4:  # the first five are special
                    expected[row, token] = max(float(expected[row, token]), weight, 0.0)
                place += 1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert (expected[0] > 0).sum() >= 1
    assert found[1].sum() == 0
    assert (found[:, :5] == 0).all()


def test_the_gradient_goes_to_the_highest_alone() -> None:
    model = build_model(ModelSettings(width=16, depth=0, heads=2, vocab_size=32, max_length=16), 0)
    made = TermHead(16)
    batch = Batch.from_sequences([[7, 7, 9]])
    weights = term_weights(model, made, batch, torch.ones(32, dtype=torch.bool))
    kept = model.encoder(batch).hidden.detach()
    best = int(made.scores(kept)[:2].argmax())
    (given,) = torch.autograd.grad(weights[0, 7], made.linear.weight)
    torch.testing.assert_close(given[0], kept[best])


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


def marked(count: int, seed: int) -> EmbeddingExamples:
    """A passage is about the word that stands behind "a"; one behind "b" is only mentioned."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, 40, (count, 3))
    queries = [f"a{word}" for word, _, _ in drawn]
    right = [f"c b{other} a a{word}" if word % 2 else f"a a{word} c b{other}" for word, other, _ in drawn]
    wrong = [f"c b{other} b a{word}" if word % 2 else f"b a{word} c b{other}" for word, _, other in drawn]
    return EmbeddingExamples((queries, right, wrong))


def told_apart(work: SparseJob) -> float:
    """By how much a held-out query's right passage is scored above its wrong one, on average."""
    assert work.dev is not None
    _, pool, numbers = work.dev
    found = work.compared(pool, np.arange(len(pool.texts)))
    return float((found.pairs(numbers[:, 0], numbers[:, 1]) - found.pairs(numbers[:, 0], numbers[:, 2])).mean())


def test_they_are_learned_and_come_back(loaded: LoadedModel, tmp_path: Path) -> None:
    """Which of two passages with the query's word is about it can only be told by what stands before the word."""
    settings = recipe_settings("tilde_v2", {"batch": 16, "train": {"precision": "fp32"}}, loaded)
    work = SparseJob(settings, loaded, marked(300, 1), marked(60, 2), DistributedContext(), CPU)
    before = told_apart(work)
    optimizer = AdamW(lr=3e-3).build(work.module)
    for step in range(100):
        optimizer.zero_grad()
        forward_backward(
            Plain().build(work, DistributedContext(), torch.device("cpu")),
            work.batches(step, 1.0, 0, None),
            DistributedContext(),
            "fp32",
            0,
            step,
        )
        optimizer.step()
    assert abs(before) < 0.3
    assert told_apart(work) > before + 1
    assert work.score(100_000)["ndcg"] > 0.9
    work.save(tmp_path / "model", {})
    again = load_model(tmp_path / "model")
    made = SparseEncoder.from_loaded(again, CPU)
    assert made.settings.prompts == {"query": "", "document": ""}
    texts = work.examples.texts[:6]
    work.module.eval()
    batch, place = work.examples.batch(np.arange(6))
    with torch.no_grad():
        expected = work._vectors(batch, [])[place, 0].numpy()
    np.testing.assert_allclose(dense(made.encode(texts), made.dimension), expected, atol=1e-5)
    more = SparseJob(settings, again, marked(50, 3), None, DistributedContext(), CPU)
    torch.testing.assert_close(more.pooling.state_dict(), work.pooling.state_dict())


def test_a_step_counts_the_anchors_and_compares_by_tokens(loaded: LoadedModel) -> None:
    """The loss against one written out by hand."""
    settings = decode(
        EmbedTraining,
        {
            "kind": "sparse",
            "weighed": "tokens",
            "queries": "bow",
            "loss": {"is": "infonce", "similarity": "dot", "temperature": 1.0},
            "batch": 8,
            "train": {"precision": "fp32"},
        },
    )
    anchors = [f"a{i} a{i} a{i + 20}" for i in range(8)]  # Equal ones would not be each other's wrong answers.
    right, wrong = ([f"{word} a{i} c b{i}" for i in range(8)] for word in ("a", "b"))
    data = EmbeddingExamples((anchors, right, wrong))
    work = SparseJob(settings, loaded, data, None, DistributedContext(), CPU)
    work.module.eval()
    batch = work.collate(np.arange(8), 0)
    with torch.no_grad():
        total = float(work.terms(batch)["infonce"].total)
        made = SparseEncoder(work.model, loaded.tokenizer, TOKENS, CPU, work.pooling)  # type: ignore[arg-type]
        queries = dense(made.encode(data.columns[0], prompt="query"), 128)
        passages = dense(made.encode([*data.columns[1], *data.columns[2]]), 128)
    scores = queries @ passages.T
    expected = (np.log(np.exp(scores).sum(1)) - scores[np.arange(8), np.arange(8)]).sum()
    assert total == pytest.approx(float(expected), rel=1e-4)


def test_a_changed_head_is_refused(loaded: LoadedModel, words: Tokenizer, tmp_path: Path) -> None:
    settings = recipe_settings("tilde_v2", {}, loaded)
    SparseJob(settings, loaded, marked(20, 1), None, DistributedContext(), CPU).save(tmp_path / "model", {})
    file = tmp_path / "model" / MODULES / "sparse.safetensors"
    kept = read_tensors(file)
    write_tensors(file, {**kept, "linear.bias": kept["linear.bias"] + 1})
    with pytest.raises(ArtifactError, match="no longer computes"):
        SparseEncoder.from_loaded(load_model(tmp_path / "model", verify=False), CPU)
