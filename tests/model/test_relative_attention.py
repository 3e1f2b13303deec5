"""Attention with embeddings of distances: the fast implementation agrees with the formula, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from encodery.model.ops.attention import AttentionSpec
from encodery.model.ops.attention import naive as plain
from encodery.model.ops.relative_attention import RelativeTerms, grouped, naive
from encodery.model.reach import Reach
from encodery.model.shape import Layout

pytestmark = pytest.mark.usefixtures("_poisoned")

BATCHES = [(1,), (1, 2, 33, 65), (20, 20, 5, 5, 5, 1)]
REACHES = [Reach(), Reach(3, 3), Reach(right=0), Reach(2, 2, global_positions=(0, 4))]
TERMS = [(True, True), (True, False), (False, True)]
SIZE = 5


def layout(lengths: tuple[int, ...], prefix: Tensor | None = None) -> Layout:
    cu = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return Layout(cu, max(lengths), sum(lengths), prefix=prefix)


def tensors(lengths: tuple[int, ...]) -> list[Tensor]:
    """qkv (T, 3, 3, 5), a bias (3, 2R - 1), and keys and queries (7, 3, 5) of distances, which need gradients."""
    source = torch.Generator().manual_seed(0)
    shapes = [(sum(lengths), 3, 3, SIZE), (3, 2 * max(lengths) - 1), (7, 3, SIZE), (7, 3, SIZE)]
    return [torch.randn(shape, dtype=torch.float64, generator=source).requires_grad_() for shape in shapes]


def index(lengths: tuple[int, ...]) -> Tensor:
    """Distances beyond 3 share an embedding; no two of smaller distances are equal."""
    return torch.arange(1 - max(lengths), max(lengths)).clamp(-3, 3) + 3


@pytest.mark.parametrize("lengths", BATCHES)
@pytest.mark.parametrize("reach", REACHES, ids=str)
@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("prefixes", [False, True])
def test_agrees_with_naive(lengths: tuple[int, ...], reach: Reach, terms: tuple[bool, bool], prefixes: bool) -> None:
    prefix = torch.tensor([length // 2 for length in lengths]) if prefixes and reach.right is not None else None
    spec = AttentionSpec(reach, bias=True, prefix=prefix is not None)
    results = []
    for attend in (grouped.attend, naive.attend):
        qkv, bias, keys, queries = tensors(lengths)
        own = RelativeTerms(index(lengths), keys if terms[0] else None, queries if terms[1] else None)
        mixed = attend(qkv, layout(lengths, prefix), spec, bias, own)
        above = torch.randn(mixed.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        leaves = [qkv, bias, *(leaf for leaf in (own.keys, own.queries) if leaf is not None)]
        results.append([mixed, *torch.autograd.grad(mixed, leaves, above)])
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-10)


def test_embeddings_of_zero_only_rescale_the_scores() -> None:
    lengths = (9, 4)
    qkv, bias, keys, _ = tensors(lengths)
    terms = RelativeTerms(index(lengths), torch.zeros_like(keys), torch.zeros_like(keys))
    mixed = grouped.attend(qkv, layout(lengths), AttentionSpec(bias=True), bias, terms)
    rescaled = torch.cat([qkv[:, :1] / 3**0.5, qkv[:, 1:]], 1)
    torch.testing.assert_close(mixed, plain.attend(rescaled, layout(lengths), AttentionSpec(bias=True), bias))


def test_the_sign_of_the_distance() -> None:
    """A key of the next token and a query of the previous one: each adds to the scores on one side only."""
    qkv = torch.zeros(3, 3, 1, 1)
    qkv[:, :2] = 1
    qkv[:, 2, 0, 0] = torch.tensor([1.0, 2.0, 4.0])
    one = torch.zeros(5, 1, 1)
    one[3] = 1e6  # distance +1
    where = torch.arange(-2, 3) + 2
    ahead = grouped.attend(qkv, layout((3,)), AttentionSpec(), None, RelativeTerms(where, one, None))
    assert ahead[:2, 0, 0].tolist() == [2.0, 4.0]
    behind = grouped.attend(qkv, layout((3,)), AttentionSpec(), None, RelativeTerms(where, None, one.flip(0)))
    assert behind[1:, 0, 0].tolist() == [1.0, 2.0]


def test_a_compiled_graph_gets_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = (7, 7, 3)
    qkv, bias, keys, queries = tensors(lengths)
    terms = RelativeTerms(index(lengths), keys, queries)
    for reach in REACHES:
        spec = AttentionSpec(reach, bias=True)
        expected = naive.attend(qkv, layout(lengths), spec, bias, terms)
        with monkeypatch.context() as patched:
            patched.setattr(torch.compiler, "is_compiling", lambda: True)
            ours = grouped.attend(qkv, layout(lengths), spec, bias, terms)
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-10)
