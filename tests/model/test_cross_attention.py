"""Attention to a memory: the implementations agree, and a sequence reads its own memory only."""

from __future__ import annotations

import pytest
import torch

from encodery.base.errors import InputError
from encodery.model.init.normal import NormalInit
from encodery.model.memory import CrossAttention, Memory
from encodery.model.ops.cross_attention import grouped, naive, select_kernel
from encodery.model.settings import ModelSettings
from encodery.model.shape import Layout

PAIRS = {
    "equal": ((4, 4, 4), (3, 3, 3)),
    "one token each": ((1, 1), (1, 1)),
    "uneven": ((5, 5, 2, 2, 2, 7), (3, 3, 1, 9, 9, 4)),
    "no memory for some": ((3, 3, 4, 1), (2, 0, 0, 5)),
    "one vector each": ((6, 2, 1), (1, 1, 1)),
}


def build() -> CrossAttention:
    shape = ModelSettings(width=8, heads=2).shape
    module = CrossAttention(shape)
    NormalInit(std=0.5).apply(module, shape, torch.Generator().manual_seed(0))
    return module


def layout(lengths: tuple[int, ...]) -> Layout:
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return Layout(cu_seqlens, max(lengths), sum(lengths))


@pytest.mark.parametrize("pairs", PAIRS.values(), ids=PAIRS)
def test_grouped_equals_naive_forward_and_backward(pairs: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    own, read = (layout(lengths) for lengths in pairs)
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(own.tokens, 2, 4, dtype=torch.float64, generator=generator).requires_grad_()
    key_value = torch.randn(read.tokens, 2, 2, 4, dtype=torch.float64, generator=generator).requires_grad_()
    expected, result = naive.attend(query, key_value, own, read), grouped.attend(query, key_value, own, read)
    torch.testing.assert_close(result, expected)
    grad = torch.randn(result.shape, dtype=torch.float64, generator=generator)
    for fast, slow in zip(
        torch.autograd.grad(result, (query, key_value), grad),
        torch.autograd.grad(expected, (query, key_value), grad),
        strict=True,
    ):
        torch.testing.assert_close(fast, slow)


def test_a_query_without_memory_gets_zeros() -> None:
    query, key_value = torch.randn(3, 2, 4), torch.randn(2, 2, 2, 4)
    for module in (naive, grouped):
        assert not module.attend(query, key_value, layout((2, 1)), layout((0, 2)))[:2].any()


def test_the_dropout_rate_is_that_of_attention_weights() -> None:
    """With values of one, the sum of the weights that are kept, each divided by the fraction kept, averages to one."""
    query, key_value = torch.randn(400, 1, 4), torch.ones(50, 2, 1, 4)
    mixed = grouped.attend(query, key_value, layout((400,)), layout((50,)), 0.5)
    assert mixed.std() > 0.05
    assert float(mixed.mean()) == pytest.approx(1.0, abs=0.05)
    assert select_kernel("cpu", torch.float32, False) is grouped.attend


def test_a_sequence_reads_its_own_memory_only() -> None:
    module = build().double()
    x, hidden = torch.randn(7, 8, dtype=torch.float64), torch.randn(6, 8, dtype=torch.float64, requires_grad=True)
    y = module(x, layout((4, 3)), Memory(hidden, layout((2, 4))))
    (grad,) = torch.autograd.grad(y[:4].sum(), hidden)
    assert grad[:2].abs().amax(1).min() > 0
    assert not grad[2:].any()


def test_one_vector_is_read_whatever_the_query_is() -> None:
    module = build()
    vectors = torch.randn(2, 8)
    y = module(torch.randn(5, 8), layout((3, 2)), Memory.of_vectors(vectors))
    value = module.key_value(vectors)[:, 8:]
    torch.testing.assert_close(y, module.out(value)[[0, 0, 0, 1, 1]])


def test_another_number_of_sequences_is_refused() -> None:
    module = build()
    with pytest.raises(InputError, match="2 sequences and its memory 1"):
        module(torch.randn(3, 8), layout((2, 1)), Memory(torch.randn(4, 8), layout((4,))))
