"""Gradient clipping, and the guard that skips and counts steps whose gradient is not finite."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from encodery.base.errors import UserError
from encodery.train.clip import (
    DEFERRED_STEPS,
    STEPS_BEFORE_SCALE_DOUBLES,
    GuardedStep,
    can_skip_on_device,
    clip_gradients,
    gradient_norm,
)
from encodery.train.optimizer_offload import offload_optimizer


def with_gradients(*values: float) -> nn.ParameterList:
    parameters = nn.ParameterList(torch.zeros(1) for _ in values)
    for p, value in zip(parameters, values, strict=True):
        p.grad = torch.tensor([value])
    return parameters


def gradients(parameters: nn.ParameterList) -> list[float]:
    return [p.grad.item() for p in parameters if p.grad is not None]


def fused(size: int = 5) -> tuple[nn.Parameter, torch.optim.AdamW]:
    p = nn.Parameter(torch.ones(size))
    return p, torch.optim.AdamW([p], lr=0.1, fused=True)


def test_clipping_keeps_the_direction_and_bounds_the_norm() -> None:
    parameters = with_gradients(3.0, 4.0)
    assert clip_gradients(parameters, 1.0) == 5.0
    assert gradients(parameters) == pytest.approx([0.6, 0.8])
    assert clip_gradients(parameters, 2.0) == pytest.approx(1.0)
    assert gradients(parameters) == pytest.approx([0.6, 0.8])


def test_a_limit_of_zero_is_no_limit() -> None:
    large = with_gradients(300.0, 400.0)
    assert clip_gradients(large, 0.0) == 500.0
    assert gradient_norm(large) == 500.0
    assert gradient_norm([torch.zeros(2)]) == 0.0


def test_the_loss_scale_is_divided_out_before_clipping() -> None:
    parameters = with_gradients(3.0 * 64, 4.0 * 64)
    assert clip_gradients(parameters, 0.0, loss_scale=64.0) == 5.0
    assert gradients(parameters) == pytest.approx([3.0, 4.0])
    assert clip_gradients(with_gradients(3.0 * 64, 4.0 * 64), 2.5, loss_scale=64.0) == 5.0
    clipped = with_gradients(3.0 * 64, 4.0 * 64)
    clip_gradients(clipped, 2.5, loss_scale=64.0)
    assert gradients(clipped) == pytest.approx([1.5, 2.0])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_gradients_that_are_not_finite_are_left_as_they_are(bad: float) -> None:
    parameters = with_gradients(3.0, bad)
    assert not math.isfinite(clip_gradients(parameters, 1.0))
    assert gradients(parameters)[0] == 3.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_step_whose_gradient_is_not_finite_is_skipped_and_counted(bad: float) -> None:
    parameters = with_gradients(1.0, bad)
    optimizer = torch.optim.AdamW(parameters, lr=0.1)
    guard = GuardedStep(max_norm=1.0, max_consecutive_skips=3)
    norm, updated = guard.step(optimizer)
    assert not updated
    assert not math.isfinite(norm)
    assert [p.item() for p in parameters] == [0.0, 0.0]
    assert not optimizer.state
    parameters[1].grad = torch.ones(1)
    assert guard.step(optimizer)[1]
    assert (guard.skipped, guard.consecutive_skips) == (1, 0)
    resumed = GuardedStep(max_consecutive_skips=3)
    resumed.load_state(guard.state())
    assert resumed.state() == guard.state()
    parameters[0].grad = torch.tensor([bad])
    resumed.step(optimizer)
    resumed.step(optimizer)
    with pytest.raises(UserError, match="in 3 consecutive steps"):
        resumed.step(optimizer)
    assert resumed.skipped == 4


@pytest.mark.parametrize("max_norm", [0.0, 0.5, 100.0])
def test_deferred_decisions_equal_those_that_wait(max_norm: float) -> None:
    (now, first), (later, second) = fused(), fused()
    guards = GuardedStep(max_norm=max_norm), GuardedStep(max_norm=max_norm, deferred=True)
    assert can_skip_on_device(second)
    for step in range(40):
        grad = torch.randn(5, generator=torch.Generator().manual_seed(step)) * 3
        if step in (3, 4, 20):
            grad[2] = (math.nan, math.inf)[step % 2]
        norms = []
        for p, optimizer, guard in ((now, first, guards[0]), (later, second, guards[1])):
            p.grad = grad.clone()
            norms.append(guard.step(optimizer)[0])
        assert isinstance(norms[1], torch.Tensor), "the norm was read"
        assert math.isfinite(norms[0]) == bool(norms[1].isfinite())
        torch.testing.assert_close(later, now, rtol=1e-6, atol=1e-7)
    assert guards[1].skipped < 3 or guards[1].pending, "all steps were counted at once"
    assert guards[1].state() == guards[0].state()
    assert guards[0].skipped == 3
    for key, value in first.state[now].items():
        torch.testing.assert_close(second.state[later][key], value, rtol=1e-6, atol=1e-7)


def test_a_diverged_run_ends_at_the_next_deferred_count() -> None:
    p, optimizer = fused()
    guard = GuardedStep(max_consecutive_skips=20, deferred=True)
    steps = 0
    with pytest.raises(UserError, match="in 32 consecutive steps"):
        for _ in range(40):
            p.grad = torch.full((5,), math.nan)
            guard.step(optimizer)
            steps += 1
    assert steps == 2 * DEFERRED_STEPS - 1 == 31
    assert torch.equal(p, torch.ones(5))


def test_only_fused_adam_with_its_state_on_the_device_can_skip_by_itself() -> None:
    p, optimizer = fused()
    assert can_skip_on_device(optimizer)
    assert not can_skip_on_device(torch.optim.AdamW([p], foreach=True))
    assert not can_skip_on_device(torch.optim.SGD([p], lr=1.0, fused=True))
    offload_optimizer(optimizer)
    assert not can_skip_on_device(optimizer)


def test_the_loss_scale_falls_when_gradients_overflow_and_rises_when_they_do_not() -> None:
    p = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([p], lr=1.0)
    guard = GuardedStep(max_norm=0.0, loss_scale=8.0)
    for value, updated, scale in ((math.inf, False, 4.0), (4.0, True, 4.0), (math.nan, False, 2.0)):
        p.grad = torch.tensor([value])
        assert guard.step(optimizer)[1] == updated
        assert guard.loss_scale == scale
    assert p.item() == -1.0, "the step uses the gradient of the loss, not of the scaled loss"
    for _ in range(STEPS_BEFORE_SCALE_DOUBLES):
        p.grad = torch.zeros(1)
        guard.step(optimizer)
    assert guard.loss_scale == 4.0
    resumed = GuardedStep(max_norm=0.0, loss_scale=65536.0)
    resumed.load_state(guard.state())
    assert (resumed.loss_scale, resumed.steps_since_skip) == (4.0, 0)
