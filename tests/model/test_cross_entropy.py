"""Chunked cross entropy agrees with the formula, in value and gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from encodery.base.errors import ProgrammerError
from encodery.model.ops.masked_cross_entropy import chunked, naive


def inputs(
    positions: int = 37, size: int = 12, vocab: int = 101, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)
    features = torch.randn(positions, size, generator=source, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(vocab, size, generator=source, dtype=torch.float64).to(dtype).requires_grad_()
    bias = torch.randn(vocab, generator=source, dtype=torch.float64).to(dtype).requires_grad_()
    targets = torch.randint(0, vocab, (positions,), generator=source)
    targets[1::5] = -1
    return features, weight, bias, targets


@pytest.fixture(params=[101, 505, 10**9], ids=["one by one", "few at a time", "all at once"])
def _limit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "LOGITS_CPU", request.param)


@pytest.mark.usefixtures("_limit")
@pytest.mark.parametrize("z_loss", [0.0, 0.01])
@pytest.mark.parametrize("with_bias", [True, False])
def test_agrees_with_naive(z_loss: float, with_bias: bool) -> None:
    features, weight, bias, targets = inputs()
    used = bias if with_bias else None
    leaves = [features, weight, *([bias] if with_bias else [])]
    expected = naive.masked_cross_entropy(features, weight, used, targets, z_loss)
    actual = chunked.masked_cross_entropy(features, weight, used, targets, z_loss)
    for mine, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)
    above = torch.tensor(0.37, dtype=torch.float64)
    for mine, theirs in zip(
        torch.autograd.grad(actual.total, leaves, above),
        torch.autograd.grad(expected.total, leaves, above),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.usefixtures("_limit")
def test_gradients_are_those_of_the_value() -> None:
    features, weight, bias, targets = inputs(5, 4, 7)

    leaves = (features, weight, bias)
    chunked.masked_cross_entropy(*leaves, targets, 0.01).total.backward()
    for leaf in leaves:
        for place in range(leaf.numel()):
            steps = []
            for step in (1e-5, -1e-5):
                moved = [other.detach().clone() for other in leaves]
                moved[[leaf is other for other in leaves].index(True)].view(-1)[place] += step
                steps.append(chunked.masked_cross_entropy(*moved, targets, 0.01).total.item())
            assert leaf.grad.view(-1)[place].item() == pytest.approx((steps[0] - steps[1]) / 2e-5, abs=1e-7)


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_no_gradient_is_computed_that_is_not_needed(frozen: int) -> None:
    leaves = list(inputs())
    targets = leaves.pop()
    leaves[frozen].requires_grad_(False)
    chunked.masked_cross_entropy(*leaves, targets).total.backward()
    assert [leaf.grad is None for leaf in leaves] == [i == frozen for i in range(3)]


def test_without_gradients_and_without_positions() -> None:
    features, weight, bias, targets = inputs()
    with torch.no_grad():
        loss = chunked.masked_cross_entropy(features, weight, bias, targets)
    assert not loss.total.requires_grad
    empty = chunked.masked_cross_entropy(features[:0], weight, bias, targets[:0])
    empty.total.backward()
    assert empty.total.item() == 0
    assert not weight.grad.any()
    assert not bias.grad.any()


def test_correct_and_ignored_positions() -> None:
    weight = torch.eye(4)
    features = torch.tensor([[9.0, 0, 0, 0], [0, 9.0, 0, 0], [0, 0, 9.0, 0]])
    loss = chunked.masked_cross_entropy(features, weight, None, torch.tensor([0, 3, -1]))
    assert loss.correct.tolist() == [True, False, False]
    assert loss.nll[2] == 0
    torch.testing.assert_close(loss.nll.sum(), loss.total)


def test_large_logits_do_not_overflow() -> None:
    features, weight, bias, targets = inputs(dtype=torch.float32)
    scaled = (features * 300).detach().requires_grad_()
    loss = chunked.masked_cross_entropy(scaled, weight, bias, targets)
    loss.total.backward()
    expected = naive.masked_cross_entropy(scaled, weight, bias, targets).total
    torch.testing.assert_close(loss.total, expected, rtol=1e-5, atol=1e-3)
    assert torch.isfinite(scaled.grad).all()


@pytest.mark.parametrize("autocast", [False, True])
def test_low_precision_stays_near(autocast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "LOGITS_CPU", 10 * 101)
    dtype = torch.float32 if autocast else torch.bfloat16
    features, weight, bias, targets = inputs(positions=200, dtype=dtype)
    leaves = (features, weight, bias)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected = torch.autograd.grad(naive.masked_cross_entropy(*exact, targets).total, exact)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = chunked.masked_cross_entropy(*leaves, targets)
    assert loss.total.dtype == torch.float32
    for mine, theirs in zip(torch.autograd.grad(loss.total, leaves), expected, strict=True):
        assert mine.dtype == dtype
        assert (mine - theirs).norm() < 0.02 * theirs.norm()


def test_a_second_backward_pass_is_refused() -> None:
    features, weight, bias, targets = inputs()
    loss = chunked.masked_cross_entropy(features, weight, bias, targets)
    loss.total.backward(retain_graph=True)
    with pytest.raises(ProgrammerError, match="once"):
        loss.total.backward()
