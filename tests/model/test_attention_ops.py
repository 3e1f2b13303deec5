"""Every implementation of attention agrees with `naive`, forward and backward, on awkward sizes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from encodery.model.ops.attention import AttentionKernel, AttentionSpec, flex, grouped, naive, padded, select_kernel
from encodery.model.shape import Layout

BATCHES = {
    "one token": (1,),
    "awkward": (1, 2, 63, 129),
    "uneven": (20, 19, 17, 16, 5, 4),
    "sorted": (65, 64, 64, 61, 33, 32, 2, 2, 2, 1, 1),
    "long": (520, 20, 600, 600),
}


def layout(lengths: tuple[int, ...]) -> Layout:
    cu = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return Layout(cu, max(lengths), sum(lengths))


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
@pytest.mark.parametrize("window", [None, 0, 2, 40])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("attend", [padded.attend, grouped.attend], ids=["padded", "grouped"])
@pytest.mark.parametrize("size", [16, 7])
def test_agrees_with_naive(
    lengths: tuple[int, ...], window: int | None, bias: bool, attend: AttentionKernel, size: int
) -> None:
    qkv, above, table = inputs(lengths, size)
    spec = AttentionSpec(window, bias)
    expected = both_ways(naive.attend, qkv, above, layout(lengths), spec, table)
    actual = both_ways(attend, qkv, above, layout(lengths), spec, table)
    for mine, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("window", [None, 40])
def test_a_bias_without_gradient_over_long_sequences(window: int | None) -> None:
    qkv, above, table = inputs(BATCHES["long"], 8)
    actual = []
    for attend in (naive.attend, grouped.attend):
        leaf = qkv.clone().requires_grad_()
        mixed = attend(leaf, layout(BATCHES["long"]), AttentionSpec(window, True), table)
        actual.append((mixed.detach(), *torch.autograd.grad(mixed, leaf, above)))
    for mine, theirs in zip(*actual, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("bias", [False, True])
def test_flex_agrees_with_naive(window: int | None, bias: bool) -> None:
    """Forward only: there is no backward pass of FlexAttention on the CPU."""
    lengths = BATCHES["awkward"]
    qkv, _, table = inputs(lengths, 16)
    used = table if bias else None
    actual = flex.attend(qkv, layout(lengths), AttentionSpec(window, bias), used)
    expected = naive.attend(qkv, layout(lengths), AttentionSpec(window, bias), used)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("lengths", [BATCHES["sorted"], BATCHES["long"]])
def test_low_precision_is_summed_in_fp32(lengths: tuple[int, ...]) -> None:
    qkv, above, table = inputs(lengths, 16, torch.bfloat16)
    expected = both_ways(
        naive.attend, qkv.float(), above.float(), layout(lengths), AttentionSpec(None, True), table.float()
    )
    actual = both_ways(grouped.attend, qkv, above, layout(lengths), AttentionSpec(None, True), table)
    assert actual[0].dtype == actual[1].dtype == torch.bfloat16
    for mine, theirs in zip(actual, expected, strict=True):
        assert (mine - theirs).norm() < 0.01 * theirs.norm()


def test_the_bias_of_one_layer_is_not_used_for_another() -> None:
    lengths = BATCHES["sorted"]
    qkv, _, table = inputs(lengths, 8)
    shared = layout(lengths)
    for factor in (1.0, -2.0, 0.5):
        fresh = table * factor
        mixed = grouped.attend(qkv, shared, AttentionSpec(None, True), fresh)
        torch.testing.assert_close(mixed, naive.attend(qkv, layout(lengths), AttentionSpec(None, True), fresh))


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
        ("cuda", torch.bfloat16, AttentionSpec(window=4)): "varlen",
        ("mps", torch.float16, AttentionSpec()): "padded",
    }
    for call, name in names.items():
        assert select_kernel(*call).__module__.rsplit(".", 1)[-1] == name
