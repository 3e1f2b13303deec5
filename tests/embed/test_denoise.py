"""Texts rebuilt from one vector: what the decoder may see, what is learned, what is left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from encodery.base.errors import SettingsError
from encodery.base.settings import decode
from encodery.embed.denoise_job import DenoiseJob, DenoisingDecoder
from encodery.embed.training import EmbedTraining, Rebuild
from encodery.encoders.dense import DenseEncoder
from encodery.model.load import LoadedModel, load_model
from encodery.model.shape import Batch
from encodery.train.distributed import DistributedContext
from encodery.train.execution.plain import Plain
from encodery.train.optim.adamw import AdamW
from encodery.train.step import forward_backward

CPU = torch.device("cpu")


def job(loaded: LoadedModel, data: Any, dev: Any = None, **train: Any) -> DenoiseJob:
    table = {"rebuild": {"delete": 0.5}, "batch": 16, "train": {"precision": "fp32", **train}}
    return DenoiseJob(decode(EmbedTraining, table), loaded, data, dev, DistributedContext(), CPU)


def test_a_word_is_told_by_those_before_it_and_the_vector(loaded: LoadedModel) -> None:
    torch.manual_seed(0)
    shape = loaded.model.settings.shape
    decoder = DenoisingDecoder(shape, 2).eval()
    batch = Batch.from_sequences([[2, 7, 8, 9, 3], [2, 3], [2, 11, 12, 3]])
    words, vectors = torch.randn(batch.tokens, shape.embedding_size), torch.randn(3, shape.width)
    found = decoder(words, vectors, batch.layout)
    later, other = words.clone(), vectors.clone()
    later[3] += 1.0
    other[2] += 1.0
    changed = decoder(later, vectors, batch.layout)
    torch.testing.assert_close(changed[:3], found[:3], msg="words before see nothing of it")
    assert not torch.allclose(changed[4], found[4])
    torch.testing.assert_close(changed[5:], found[5:])
    told = decoder(words, other, batch.layout)
    torch.testing.assert_close(told[:7], found[:7])
    assert (told[7:] - found[7:]).abs().amax(1).min() > 1e-5


def test_the_rows_belong_together(loaded: LoadedModel, pairs: Any) -> None:
    work = job(loaded, pairs(20, 1))
    micro = work.batches(0, 0.0, 0, None).micro_batches[0].batch
    ends, noisy = micro.extra["ends"].tolist(), micro.cu_seqlens.tolist()
    for number, row in enumerate(micro.extra["row"].tolist()):
        whole = set(micro.extra["whole"][ends[number] : ends[number + 1]].tolist())
        rest = set(micro.ids[noisy[row] : noisy[row + 1]].tolist())
        assert rest <= whole
    assert micro.tokens < micro.extra["whole"].numel()
    counts, terms = work.counts(micro), work.terms(micro)
    assert counts == {"rebuild": terms["rebuild"].count}


def test_it_is_learned_and_the_decoder_stays_behind(loaded: LoadedModel, pairs: Any, tmp_path: Path) -> None:
    data = pairs(100, 1)
    work = job(loaded, data, pairs(30, 2), micro_batch_tokens=60)
    assert len(work.numbers) == 200
    optimizer = AdamW(lr=3e-3).build(work.module)
    losses = []
    for step in range(60):
        optimizer.zero_grad()
        step_work = work.batches(step, 0.0, 0, None)
        terms = forward_backward(
            Plain().build(work, DistributedContext(), torch.device("cpu")),
            step_work,
            DistributedContext(),
            "fp32",
            0,
            step,
        )
        optimizer.step()
        losses.append(sum(float(t["rebuild"].total) for t in terms) / sum(int(t["rebuild"].count) for t in terms))
    assert len(step_work.micro_batches) > 1
    assert losses[-1] < 0.8 * losses[0]
    blind = torch.zeros(1)
    with torch.no_grad():
        micro = work.batches(60, 0.0, 0, None).micro_batches[0].batch
        told = float(work.terms(micro)["rebuild"].total)
        work._vectors = lambda batch, layers: torch.zeros(len(batch), 1, 32) + blind  # type: ignore[method-assign]
        assert float(work.terms(micro)["rebuild"].total) > told, "the vector says something"
    del work._vectors
    assert "ndcg" in work.score(10_000)
    work.save(tmp_path / "model", {})
    again = load_model(tmp_path / "model")
    assert sum(p.numel() for p in again.model.parameters()) == sum(p.numel() for p in loaded.model.parameters())
    assert DenseEncoder.from_loaded(again).encode(["a1 a2"]).vectors.shape == (1, 32)


def test_settings_that_cannot_be() -> None:
    with pytest.raises(SettingsError, match=r"rebuild\.delete = 1\.0"):
        Rebuild(delete=1.0)
