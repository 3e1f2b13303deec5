"""Every implementation of attention agrees with `naive`, forward and backward, on awkward sizes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from encodery.model.ops.attention import AttentionKernel, AttentionSpec, flex, grouped, naive, padded, select_kernel
from encodery.model.reach import Reach
from encodery.model.shape import Layout

BATCHES = {
    "one token": (1,),
    "awkward": (1, 2, 63, 129),
    "uneven": (20, 19, 17, 16, 5, 4),
    "sorted": (65, 64, 64, 61, 33, 32, 2, 2, 2, 1, 1),
    "long": (520, 20, 600, 600),
}
PREFIXES = (0, 1, 13)
REACHES = {
    "whole": Reach(),
    "window 0": Reach(0, 0),
    "window 2": Reach(2, 2),
    "window 40": Reach(40, 40),
    "left wider": Reach(9, 3),
    "right wider": Reach(0, 12),
    "causal": Reach(right=0),
    "causal window": Reach(30, 0),
    "left": Reach(left=5),
    "sinks": Reach(3, 0, sinks=4),
    "sinks on both sides": Reach(6, 6, sinks=2),
    "prefix": Reach(right=0, prefix=11),
    "global": Reach(4, 4, global_positions=(0, 7)),
    "sinks and global": Reach(5, 2, sinks=3, global_positions=(1, 40)),
    "global, causal": Reach(right=0, global_positions=(3,)),
}


def layout(lengths: tuple[int, ...]) -> Layout:
    cu = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return Layout(cu, max(lengths), sum(lengths))


def prefixed(lengths: tuple[int, ...]) -> Layout:
    """The layout with prefixes of some sequences."""
    prefix = torch.tensor([min(PREFIXES[i % 3], length) for i, length in enumerate(lengths)])
    plain = layout(lengths)
    return Layout(plain.cu_seqlens, plain.max_seqlen, plain.tokens, prefix=prefix)


def inputs(lengths: tuple[int, ...], size: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=source).to(dtype)

    return draw(sum(lengths), 3, 3, size), draw(sum(lengths), 3, size), draw(3, 2 * max(lengths) - 1)


def both_ways(
    attend: AttentionKernel, qkv: Tensor, above: Tensor, batch_layout: Layout, spec: AttentionSpec, bias: Tensor
) -> list[Tensor]:
    leaves = [qkv.clone().requires_grad_(), bias.clone().requires_grad_()]
    used = leaves if spec.bias else leaves[:1]
    mixed = attend(leaves[0], batch_layout, spec, leaves[1] if spec.bias else None)
    return [mixed.detach(), *torch.autograd.grad(mixed, used, above)]


@pytest.mark.parametrize("lengths", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("reach", REACHES.values(), ids=REACHES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("attend", [padded.attend, grouped.attend], ids=["padded", "grouped"])
@pytest.mark.parametrize("size", [16, 7])
def test_agrees_with_naive(
    lengths: tuple[int, ...], reach: Reach, bias: bool, attend: AttentionKernel, size: int
) -> None:
    qkv, above, table = inputs(lengths, size)
    spec = AttentionSpec(reach, bias)
    expected = both_ways(naive.attend, qkv, above, layout(lengths), spec, table)
    actual = both_ways(attend, qkv, above, layout(lengths), spec, table)
    for mine, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("reach", [Reach(right=0), Reach(12, 0), Reach(5, 5, sinks=2), Reach(right=3, prefix=4)])
@pytest.mark.parametrize("attend", [padded.attend, grouped.attend], ids=["padded", "grouped"])
@pytest.mark.parametrize("lengths", BATCHES.values(), ids=BATCHES)
def test_prefixes_of_a_batch(lengths: tuple[int, ...], attend: AttentionKernel, reach: Reach) -> None:
    qkv, above, table = inputs(lengths, 7)
    spec = AttentionSpec(reach, bias=True, prefix=True)
    expected = both_ways(naive.attend, qkv, above, prefixed(lengths), spec, table)
    actual = both_ways(attend, qkv, above, prefixed(lengths), spec, table)
    for mine, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)
    if max(lengths) > 16:
        without = naive.attend(qkv, layout(lengths), AttentionSpec(reach, bias=True), table)
        assert not torch.allclose(expected[0], without)


@pytest.mark.parametrize("reach", REACHES.values(), ids=REACHES)
def test_naive_attends_to_the_tokens_within_reach_alone(reach: Reach) -> None:
    """With zero queries every token within reach has the same weight."""
    lengths = (1, 2, 17)
    qkv, _, _ = inputs(lengths, 4)
    qkv[:, 0] = 0
    mixed = naive.attend(qkv, prefixed(lengths), AttentionSpec(reach, prefix=True), None)
    for token in range(20):
        number = 0 if token < 1 else 1 if token < 3 else 2
        start, length = (0, 1, 3)[number], lengths[number]
        within = [start + j for j in range(length) if attends(reach, token - start, j, PREFIXES[number])]
        torch.testing.assert_close(mixed[token], qkv[within, 2].mean(0))


def attends(reach: Reach, i: int, j: int, prefix: int) -> bool:
    if i in reach.global_positions or j in reach.global_positions:
        return True
    left = reach.left is None or i - j <= reach.left or j < reach.sinks
    right = reach.right is None or j - i <= reach.right or j < max(reach.prefix, prefix)
    return left and right


@pytest.mark.parametrize("reach", [Reach(), Reach(40, 40), Reach(40, 7), Reach(right=0)])
def test_a_bias_without_gradient_over_long_sequences(reach: Reach) -> None:
    qkv, above, table = inputs(BATCHES["long"], 8)
    actual = []
    for attend in (naive.attend, grouped.attend):
        leaf = qkv.clone().requires_grad_()
        mixed = attend(leaf, layout(BATCHES["long"]), AttentionSpec(reach, True), table)
        actual.append((mixed.detach(), *torch.autograd.grad(mixed, leaf, above)))
    for mine, theirs in zip(*actual, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("reach", REACHES.values(), ids=REACHES)
@pytest.mark.parametrize("bias", [False, True])
def test_flex_agrees_with_naive(reach: Reach, bias: bool) -> None:
    """Forward only: there is no backward pass of FlexAttention on the CPU."""
    lengths = BATCHES["awkward"]
    qkv, _, table = inputs(lengths, 16)
    used = table if bias else None
    actual = flex.attend(qkv, layout(lengths), AttentionSpec(reach, bias), used)
    expected = naive.attend(qkv, layout(lengths), AttentionSpec(reach, bias), used)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("lengths", [BATCHES["sorted"], BATCHES["long"]])
def test_low_precision_is_summed_in_fp32(lengths: tuple[int, ...]) -> None:
    qkv, above, table = inputs(lengths, 16, torch.bfloat16)
    expected = both_ways(
        naive.attend, qkv.float(), above.float(), layout(lengths), AttentionSpec(bias=True), table.float()
    )
    actual = both_ways(grouped.attend, qkv, above, layout(lengths), AttentionSpec(bias=True), table)
    assert actual[0].dtype == actual[1].dtype == torch.bfloat16
    for mine, theirs in zip(actual, expected, strict=True):
        assert (mine - theirs).norm() < 0.01 * theirs.norm()


def test_the_bias_of_one_layer_is_not_used_for_another() -> None:
    lengths = BATCHES["sorted"]
    qkv, _, table = inputs(lengths, 8)
    shared = layout(lengths)
    for factor in (1.0, -2.0, 0.5):
        fresh = table * factor
        mixed = grouped.attend(qkv, shared, AttentionSpec(bias=True), fresh)
        torch.testing.assert_close(mixed, naive.attend(qkv, layout(lengths), AttentionSpec(bias=True), fresh))


def test_dropout_is_seeded_and_unbiased() -> None:
    lengths = (6,) * 400
    qkv, _, _ = inputs(lengths, 4)
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        runs.append(padded.attend(qkv, layout(lengths), AttentionSpec(dropout=0.5), None))
    assert torch.equal(runs[0], runs[1])
    whole = naive.attend(qkv, layout(lengths), AttentionSpec(), None)
    assert not torch.allclose(runs[0], whole)
    assert abs(((runs[0] - whole) * whole).mean() / whole.square().mean()) < 0.1


def test_choice_by_device_and_spec() -> None:
    names = {
        ("cpu", torch.float32, AttentionSpec(bias=True)): "grouped",
        ("cpu", torch.float32, AttentionSpec(dropout=0.1)): "padded",
        ("cuda", torch.float32, AttentionSpec()): "padded",
        ("cuda", torch.float32, AttentionSpec(bias=True)): "flex",
        ("cuda", torch.bfloat16, AttentionSpec(Reach(4, 4))): "varlen",
        ("cuda", torch.bfloat16, AttentionSpec(Reach(4, 0))): "varlen",
        ("cuda", torch.bfloat16, AttentionSpec(Reach(4, 4, sinks=1))): "flex",
        ("cuda", torch.bfloat16, AttentionSpec(Reach(right=0), prefix=True)): "flex",
        ("mps", torch.float16, AttentionSpec()): "padded",
    }
    for call, name in names.items():
        assert select_kernel(*call).__module__.rsplit(".", 1)[-1] == name
