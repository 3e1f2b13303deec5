"""Batches in chunks: the gradients of one pass, dropout included, in the memory of one chunk."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from encodery.embed.gradient_cache import run_in_chunks, split_batch
from encodery.embed.loss_inputs import VectorInputs
from encodery.embed.losses.infonce import InfoNCE
from encodery.encoders.pooling.mean import Mean
from encodery.model.network import Model, build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch

LENGTHS = (9, 8, 8, 7, 5, 4, 4, 3, 3, 2, 2, 2)
SETTINGS = ModelSettings(width=32, depth=2, heads=2, vocab_size=64, max_length=16, dropout=0.2)


def batch() -> Batch:
    source = torch.Generator().manual_seed(0)
    return Batch.from_sequences([torch.randint(5, 64, (n,), generator=source).tolist() for n in LENGTHS])


def gradients(model: Model, limit: int | None, seed: int = 3) -> tuple[float, list[Tensor]]:
    """Loss and gradients, in chunks of `limit` tokens; None runs chunks of 20 with all activations kept."""
    pooling = Mean().build(SETTINGS.shape)

    def encode(chunk: Batch) -> Tensor:
        vectors: Tensor = pooling(model.encoder(chunk), chunk)
        return vectors

    model.zero_grad(set_to_none=True)
    torch.manual_seed(seed)
    if limit is None:
        vectors = torch.cat([encode(chunk) for chunk in split_batch(batch(), 20)])
    else:
        vectors = run_in_chunks(encode, batch(), limit)
    left, right = vectors.view(2, 6, -1)
    term = InfoNCE().terms(VectorInputs((left, right)))["infonce"]
    term.total.backward()
    return float(term.total.detach()), [p.grad.clone() for p in model.encoder.parameters() if p.grad is not None]


def test_chunks_hold_every_sequence_once_and_keep_the_budget() -> None:
    whole = batch()
    for tokens in (1, 9, 20, 1000):
        chunks = list(split_batch(whole, tokens))
        assert torch.equal(torch.cat([chunk.ids for chunk in chunks]), whole.ids)
        assert sum(map(len, chunks)) == len(whole)
        assert all(chunk.tokens <= tokens or len(chunk) == 1 for chunk in chunks)
        for chunk in chunks:
            assert chunk.cu_seqlens[0] == 0
            assert chunk.cu_seqlens[-1] == chunk.tokens
            assert chunk.max_seqlen == int(chunk.cu_seqlens.diff().max())
    assert len(list(split_batch(whole, 1000))) == 1


def test_gradients_are_those_of_one_pass_without_dropout() -> None:
    model = build_model(SETTINGS, seed=0).eval()
    direct, cached = gradients(model, 1000), gradients(model, 20)
    assert cached[0] == pytest.approx(direct[0], rel=1e-6)
    for one, other in zip(direct[1], cached[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_dropout_is_the_same_in_the_second_pass() -> None:
    model = build_model(SETTINGS, seed=0).train()
    kept, cached = gradients(model, None), gradients(model, 20)
    assert cached[0] == kept[0]
    for one, other in zip(kept[1], cached[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    assert gradients(model, 20, seed=4)[0] != kept[0], "dropout is applied"


def test_activations_of_one_chunk_are_kept_at_a_time() -> None:
    """What autograd keeps between forward and backward does not grow with the batch."""
    model = build_model(SETTINGS, seed=0).train()
    pooling = Mean().build(SETTINGS.shape)

    def kept(tokens: int) -> int:
        size = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal size
            size += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            run_in_chunks(lambda chunk: pooling(model.encoder(chunk), chunk), batch(), tokens)
        return size

    assert kept(20) < 0.2 * kept(1000)


def test_a_single_chunk_is_run_once() -> None:
    calls = 0

    def run(chunk: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.ones(len(chunk), 2, requires_grad=True).exp()

    run_in_chunks(run, batch(), 1000).sum().backward()
    assert calls == 1
    run_in_chunks(run, batch(), 20).sum().backward()
    assert calls == 1 + 2 * len(list(split_batch(batch(), 20)))
    with torch.no_grad():
        run_in_chunks(run, batch(), 20)
    assert calls == 1 + 3 * len(list(split_batch(batch(), 20)))
