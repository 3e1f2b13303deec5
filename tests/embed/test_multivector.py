"""A vector a token: MaxSim by its formula, learned, and back from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch

from encodery.base.errors import ArtifactError, SettingsError
from encodery.base.settings import decode
from encodery.embed.multivector_job import GivenTokens, MultiVectorJob
from encodery.embed.training import EmbedTraining
from encodery.encoders.multi_vector import (
    KEY,
    MultiVectorEncoder,
    MultiVectorSettings,
    TokenProjection,
    max_sim,
    pad_with_mask,
    punctuation_ids,
)
from encodery.model.checkpoint import read_tensors, write_tensors
from encodery.model.load import LoadedModel, load_model
from encodery.model.shape import Batch
from encodery.tokens.tokenizer import Tokenizer
from encodery.train.distributed import DistributedContext
from encodery.train.execution.plain import Plain
from encodery.train.optim.adamw import AdamW
from encodery.train.precision import autocast
from encodery.train.step import forward_backward

CPU = torch.device("cpu")


def packed(lengths: list[int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.randn(sum(lengths), 5, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1), torch.arange(len(lengths)).repeat_interleave(
        torch.tensor(lengths)
    )


def by_loops(left: torch.Tensor, mine: torch.Tensor, right: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    count = int(mine.max()) + 1, int(theirs.max()) + 1
    return torch.tensor(
        [
            [float((left[mine == i] @ right[theirs == j].T).amax(1).sum()) for j in range(count[1])]
            for i in range(count[0])
        ]
    )


def test_max_sim_by_its_formula() -> None:
    (queries, query), (documents, document) = packed([3, 1, 4], 0), packed([2, 6, 1, 3], 1)
    order = torch.randperm(len(documents), generator=torch.Generator().manual_seed(2))
    documents, document = documents[order], document[order]
    found = max_sim(queries, query, documents, document, (3, 4))
    torch.testing.assert_close(found, by_loops(queries, query, documents, document))


def test_losses_see_means_of_best_matches() -> None:
    (left, mine), (right, theirs) = packed([3, 1, 4], 0), packed([2, 6, 1], 1)
    given = GivenTokens((left, right), whose=(mine, theirs), examples=3)
    expected = by_loops(left, mine, right, theirs) / torch.tensor([[3.0], [1.0], [4.0]])
    torch.testing.assert_close(given.cross(0, 1), expected)
    torch.testing.assert_close(given.pairs(0, 1), expected.diagonal())
    with pytest.raises(SettingsError, match="cannot be cut"):
        given.truncate(2)


def job(loaded: LoadedModel, data: Any, dev: Any, **train: Any) -> MultiVectorJob:
    table = {"kind": "tokens", "token_width": 16, "loss": {"is": "infonce"}, "batch": 16}
    table["train"] = {"precision": "fp32", **train}
    return MultiVectorJob(decode(EmbedTraining, table), loaded, data, dev, DistributedContext(), CPU)


def test_they_are_learned_and_come_back(loaded: LoadedModel, pairs: Any, tmp_path: Path) -> None:
    work = job(loaded, pairs(200, 1), pairs(60, 2))
    before, losses = work.score(100_000), []
    optimizer = AdamW(lr=3e-3).build(work.module)
    for step in range(40):
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
        losses.append(float(terms[0]["infonce"].total / terms[0]["infonce"].count))
    after = work.score(100_000)
    assert after["ndcg"] > before["ndcg"] + 0.1
    assert losses[-1] < 0.6 * losses[0]
    work.save(tmp_path / "model", {})
    again = load_model(tmp_path / "model")
    encoder = MultiVectorEncoder.from_loaded(again, CPU)
    assert encoder.dimension == 16
    numbers = work.numbers[:6]
    texts = np.unique(numbers)
    asked, told = ([work.examples.texts[int(n)] for n in numbers[:, c]] for c in (0, 1))
    found = encoder.encode(asked, batch_tokens=20).similarity(encoder.encode(told))
    places = np.searchsorted(texts, numbers)
    expected = work.compared(work.examples, texts).cross(places[:, 0], places[:, 1])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(
        work.compared(work.examples, texts).pairs(places[:, 0], places[:, 1]), expected.diagonal(), atol=1e-5
    )
    further = MultiVectorJob(work.settings, again, pairs(20, 1), None, DistributedContext(), CPU)
    torch.testing.assert_close(further.pooling.linear.weight, work.pooling.linear.weight)  # type: ignore[union-attr]
    file = tmp_path / "model" / "modules" / f"{KEY}.safetensors"
    tensors = read_tensors(file)
    write_tensors(file, {**tensors, "linear.weight": tensors["linear.weight"].flip(0)})
    with pytest.raises(ArtifactError, match="no longer computes"):
        MultiVectorEncoder.from_loaded(load_model(tmp_path / "model", verify=False))


def test_pieces_give_the_gradient_of_one_pass(loaded: LoadedModel, pairs: Any) -> None:
    grads = []
    for tokens in (100_000, 50):
        work = job(loaded, pairs(16, 1), None, micro_batch_tokens=tokens)
        forward_backward(
            Plain().build(work, DistributedContext(), torch.device("cpu")),
            work.batches(0, 0.0, 0, None),
            DistributedContext(),
            "fp32",
            0,
            0,
        )
        grads.append([p.grad for p in work.module.parameters() if p.grad is not None])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_vectors_of_bfloat16_are_compared_in_fp32(loaded: LoadedModel, pairs: Any) -> None:
    work = job(loaded, pairs(16, 1), pairs(20, 2))
    texts = np.arange(20)
    compared = work.compared(work.examples, texts)
    with autocast("bf16", CPU):
        assert work.score(100_000)["ndcg"] > 0
        asked, told = compared.read(texts, "query"), compared.read(texts, "document")  # type: ignore[attr-defined]
        crossed, paired = compared.cross(texts, texts), compared.pairs(texts, texts)
    expected = [[(asked.at(i) @ told.at(j).T).max(1).sum() for j in range(20)] for i in range(20)]
    assert crossed.dtype == paired.dtype == np.float32
    np.testing.assert_allclose(crossed, expected, rtol=1e-5)
    np.testing.assert_allclose(paired, np.diagonal(expected), rtol=1e-5)
    exact = compared.read(texts, "query")  # type: ignore[attr-defined]
    assert not np.array_equal(exact.vectors, asked.rows), "nothing was computed in bfloat16"


def test_texts_in_order_and_long_ones_in_windows(loaded: LoadedModel) -> None:
    encoder = MultiVectorEncoder(loaded.model, loaded.tokenizer, TokenProjection(32, 128), device=CPU)
    texts = ["a1 a2 b3", "", "a4", " ".join(f"b{i}" for i in range(20))]
    found = encoder.encode(texts, truncate="chunk", batch_tokens=8)
    assert np.diff(found.ends, prepend=0).tolist() == [5, 2, 3, 24]
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found.at(2), encoder.encode(["a4"]).vectors, atol=1e-5)
    assert encoder.encode(texts, truncate="left").dropped.tolist() == [0, 0, 0, 6]
    assert encoder.encode([]).vectors.shape == (0, 128)
    with pytest.raises(SettingsError, match="multi-vector embeddings"):
        MultiVectorEncoder.from_loaded(loaded)


def test_queries_are_filled_up_behind_their_own_tokens() -> None:
    batch = Batch.from_sequences([[2, 7, 8, 3], [2, 3], [2, 9, 10, 11, 12, 3]], [[0] * 4, [0] * 2, [1] * 6])
    found = pad_with_mask(batch, torch.tensor([True, False, True]), 5, 4)
    assert found.ids.tolist() == [2, 7, 8, 3, 4, 2, 3, 2, 9, 10, 11, 12, 3]
    assert found.cu_seqlens.tolist() == [0, 5, 7, 13]
    assert found.segment is not None
    assert found.segment.tolist() == [0] * 7 + [1] * 6
    assert found.max_seqlen == 6


def test_pieces_of_punctuation(tokenizer: Tokenizer, words: Tokenizer) -> None:
    assert punctuation_ids(tokenizer) == punctuation_ids(words) == []
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", "...", "##.", "a,", "“", "$", "##a", "–"]
    inner = tokenizers.Tokenizer(tokenizers.models.WordPiece({p: n for n, p in enumerate(pieces)}, unk_token="[UNK]"))
    inner.decoder = tokenizers.decoders.WordPiece()
    inner.add_special_tokens(pieces[:5])
    assert punctuation_ids(Tokenizer(inner)) == [5, 6, 7, 9, 10, 12]


def test_sides_differ_by_what_was_told(loaded: LoadedModel) -> None:
    projection = TokenProjection(32, 16)
    settings = MultiVectorSettings(dimension=16, query_length=8, prompts={"query": "a b "})
    encoder = MultiVectorEncoder(loaded.model, loaded.tokenizer, projection, settings, CPU)
    texts = ["a1 a2 b3", "", " ".join(f"b{i}" for i in range(12))]
    asked = encoder.encode(texts, prompt="query")
    assert np.diff(asked.ends, prepend=0).tolist() == [8, 8, 16], "prompts count; longer queries stay whole"
    plain = MultiVectorEncoder(loaded.model, loaded.tokenizer, projection, MultiVectorSettings(dimension=16), CPU)
    for side in ("document", None):
        np.testing.assert_array_equal(encoder.encode(texts, prompt=side).vectors, plain.encode(texts).vectors)
    ids = [2, *loaded.tokenizer.encode("a b a1 a2 b3").tolist(), 3, 4]
    alone = encoder.token_vectors(Batch.from_sequences([ids])).detach().numpy()
    np.testing.assert_allclose(asked.at(0), alone, atol=1e-6)
    with pytest.raises(SettingsError, match=r"query_length = 99: the model reads at most 16"):
        MultiVectorEncoder(loaded.model, loaded.tokenizer, projection, MultiVectorSettings(query_length=99))


def test_they_are_trained_as_they_are_used(loaded: LoadedModel, pairs: Any, tmp_path: Path) -> None:
    told = {"kind": "tokens", "token_width": 16, "query_length": 9, "skip_punctuation": True, "batch": 8}
    settings = decode(EmbedTraining, {**told, "loss": {"is": "infonce"}, "train": {"precision": "fp32"}})
    work = MultiVectorJob(settings, loaded, pairs(8, 1), None, DistributedContext(), CPU)
    micro = work.batches(0, 0.0, 0, None).micro_batches[0].batch
    comma = int(work.examples.ids[-1])  # a piece that stands for a comma
    work.__dict__["_skipped"] = torch.tensor([comma])
    lengths = micro.cu_seqlens.diff()
    assert lengths[micro.extra["place"]].tolist() == [9] * 8 + [5] * 8
    kept = work._kept(micro, True)
    assert 0 < int((~kept).sum()) == int((micro.ids == comma).sum())
    assert work._kept(micro, False).all()
    work.__dict__.pop("_skipped")
    work.save(tmp_path / "model", {})
    encoder = MultiVectorEncoder.from_loaded(load_model(tmp_path / "model"), CPU)
    assert encoder.settings.query_length == 9
    texts = np.unique(work.numbers[:3])
    names = [work.examples.texts[int(n)] for n in texts]
    expected = encoder.encode(names, prompt="query").similarity(encoder.encode(names, prompt="document"))
    every = np.arange(len(texts))
    found = work.compared(work.examples, texts)
    np.testing.assert_allclose(found.cross(every, every), expected, rtol=1e-4)
    np.testing.assert_allclose(found.pairs(every, every), expected.diagonal(), rtol=1e-4)
