"""Learned sparse vectors: what they are, that they are learned and become sparser, that they come back from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encodery.base.errors import SettingsError
from encodery.base.settings import decode
from encodery.embed.losses import LossInputs
from encodery.embed.losses.flops import FLOPS
from encodery.embed.losses.infonce import InfoNCE
from encodery.embed.sparse_job import SparseJob
from encodery.embed.training import EmbedTraining
from encodery.encoders.dense import DenseEncoder
from encodery.encoders.embeddings import SparseEmbeddings
from encodery.encoders.sparse import SparseEncoder, SparseSettings, vocabulary_scores, vocabulary_weights
from encodery.model.load import LoadedModel, load_model
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
from encodery.train.distributed import DistributedContext
from encodery.train.execution.plain import Plain
from encodery.train.optim.adamw import AdamW
from encodery.train.step import forward_backward

CPU = torch.device("cpu")
TEXTS = ["a1 a2 b3", "", "a4", "a1 a1 a1 b2 b2 c a b"]


def dense(found: SparseEmbeddings, vocab: int) -> np.ndarray:
    rows = np.zeros((len(found), vocab), np.float32)
    for number in range(len(found)):
        words, weights = found.at(number)
        rows[number, words] = weights
    return rows


def test_weights_are_the_highest_of_the_heads_scores(loaded: LoadedModel) -> None:
    batch = Batch.from_sequences([[2, 7, 9, 3], [2, 3], [2, 11, 3]])
    with torch.inference_mode():
        found = vocabulary_weights(loaded.model.eval(), batch)
        logits = loaded.model.mlm_head(loaded.model(batch).hidden, loaded.model.encoder)
    for row, part in zip(found, torch.split(logits, [4, 2, 3]), strict=True):
        torch.testing.assert_close(row, torch.log1p(torch.relu(part)).amax(0))


def test_texts_become_words_with_weights(loaded: LoadedModel) -> None:
    encoder = SparseEncoder(loaded.model, loaded.tokenizer, device=CPU)
    found = encoder.encode(TEXTS, batch_tokens=9)
    assert len(found) == 4
    assert found.dropped.tolist() == [0, 0, 0, 0]
    for number, text in enumerate(TEXTS):
        words, weights = found.at(number)
        assert (np.diff(words) > 0).all()
        assert (weights > 0).all()
        again = encoder.encode([text])
        np.testing.assert_array_equal(again.at(0)[0], words)
        np.testing.assert_allclose(again.at(0)[1], weights, rtol=1e-4, atol=1e-6)
    kept = SparseEncoder(loaded.model, loaded.tokenizer, SparseSettings(keep=3), CPU).encode(TEXTS)
    for number in range(4):
        heaviest = np.sort(found.at(number)[1])[-3:]
        np.testing.assert_allclose(np.sort(kept.at(number)[1]), heaviest, rtol=1e-4)


def test_a_long_text_has_the_highest_weight_of_its_windows(loaded: LoadedModel) -> None:
    encoder = SparseEncoder(loaded.model, loaded.tokenizer, device=CPU)
    words = [f"a{i}" for i in range(20)]  # 14 fit
    whole, parts = (
        encoder.encode([" ".join(words)], truncate="chunk"),
        encoder.encode([" ".join(words[:10]), " ".join(words[10:])]),
    )
    np.testing.assert_allclose(dense(whole, 128)[0], dense(parts, 128).max(axis=0), rtol=1e-4)


def test_the_price_is_the_squared_mean_weight() -> None:
    query, document = torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([[0.0, 2.0], [2.0, 0.0]])
    loss = FLOPS(
        loss=InfoNCE(similarity="dot"),
        query_weight=decode_schedule("0 -> 0.5 linear"),
        document_weight=decode_schedule(0.1),
    )
    terms = loss.terms(LossInputs((query, document), progress=0.5))
    assert float(terms["flops_query"].total) == 4.0
    assert terms["flops_query"].weight == 0.25
    assert float(terms["flops_document"].total) == 2.0
    assert terms["flops_document"].weight == pytest.approx(0.1)
    assert float(terms["document_words"].total) == 2


def decode_schedule(text: str | float) -> Any:
    from encodery.base.schedule import Schedule

    return Schedule.parse(text)


def test_they_are_learned_become_sparse_and_come_back(loaded: LoadedModel, pairs: Any, tmp_path: Path) -> None:
    inner = {"is": "infonce", "similarity": "dot", "temperature": 1.0}
    loss = {"is": "flops", "loss": inner, "query": 0.02, "document": 0.02}
    table = {"kind": "sparse", "loss": loss, "batch": 16, "train": {"precision": "fp32"}}
    work = SparseJob(decode(EmbedTraining, table), loaded, pairs(200, 1), pairs(60, 2), DistributedContext(), CPU)
    before, words = work.score(100_000), []
    optimizer = AdamW(lr=3e-3).build(work.module)
    for step in range(120):
        optimizer.zero_grad()
        terms = forward_backward(
            Plain().build(work, DistributedContext(), torch.device("cpu")),
            work.batches(step, 1.0, 0, None),
            DistributedContext(),
            "fp32",
            0,
            step,
        )
        optimizer.step()
        words.append(float(terms[0]["document_words"].total / terms[0]["document_words"].count))
    after = work.score(100_000)
    assert after["ndcg"] > before["ndcg"] + 0.2
    assert words[-1] < 0.5 * max(words)
    work.save(tmp_path / "model", {})
    again = load_model(tmp_path / "model")
    encoder = SparseEncoder.from_loaded(again, CPU)
    texts = work.examples.texts[:5]
    found = dense(encoder.encode(texts), encoder.dimension)
    work.module.eval()
    batch, place = work.examples.batch(np.arange(5))
    with torch.no_grad():
        expected = work._vectors(batch, [])[place, 0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(SettingsError, match="was not trained for sparse vectors"):
        SparseEncoder.from_loaded(loaded)
    with pytest.raises(SettingsError, match=r"trained for sparse embeddings, not for one vector per text"):
        DenseEncoder.from_loaded(again)


def test_a_head_is_needed(loaded: LoadedModel) -> None:
    model = build_model(ModelSettings(width=16, depth=1, heads=2, vocab_size=128, max_length=16, head=None), 0)
    with pytest.raises(SettingsError, match="has none"):
        SparseEncoder(model, loaded.tokenizer)


def test_a_head_whose_scores_are_all_below_zero_is_woken(loaded: LoadedModel, pairs: Any) -> None:
    table = {"kind": "sparse", "loss": {"is": "flops", "loss": {"is": "infonce", "similarity": "dot"}}, "batch": 16}
    settings = decode(EmbedTraining, table)
    model = loaded.model
    bias = dict(model.named_parameters())["heads.mlm.bias"]

    def bias_of(job: SparseJob) -> torch.Tensor:
        found: torch.Tensor = job.model.state_dict()["heads.mlm.bias"]
        return found

    def made() -> SparseJob:
        return SparseJob(settings, loaded, pairs(100, 1), None, DistributedContext(), CPU)

    def words(job: SparseJob) -> float:
        batch, _ = job.examples.batch(np.arange(60))
        return float((vocabulary_weights(job.model, batch) > 0).sum(1).float().mean())

    assert made().warnings(torch.float32) == [], "a head that says words is left alone"
    assert torch.equal(bias_of(made()), bias)
    kept = bias.detach().clone()
    try:
        with torch.no_grad():
            bias.copy_(torch.linspace(-60.0, -40.0, len(bias)))
        job = made()
        assert "gives a text 0.0 words" in job.warnings(torch.float32)[0]
        tokens = float(job.examples.lengths[:60].mean())
        assert words(job) == pytest.approx(tokens, rel=0.3)
        assert len(set(bias_of(job).tolist())) == 1
        assert made().model.state_dict().keys() == job.model.state_dict().keys()
        for name, tensor in made().model.state_dict().items():
            assert torch.equal(tensor, job.model.state_dict()[name]), "the same in a run that goes on"
        with torch.no_grad():
            scores = vocabulary_scores(made().model, job.examples.batch(np.arange(60))[0])
            bias.copy_(bias_of(job) - torch.quantile(scores.flatten(), 1 - 0.3 * tokens / len(bias)))
        assert made().woken is None, "a head that says few words may have learned that"
        assert words(made()) == pytest.approx(0.3 * tokens, rel=0.3)
    finally:
        with torch.no_grad():
            bias.copy_(kept)
