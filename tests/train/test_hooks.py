"""The running average of weights: its value, its swap, its state. Clipping and the guard beside it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from encodery.base.errors import CheckpointError, SettingsError, UserError
from encodery.train.clip import (
    STEPS_BEFORE_SCALE_DOUBLES,
    GuardedStep,
    can_skip_on_device,
    clip_gradients,
    gradient_norm,
)
from encodery.train.hooks import TrainState
from encodery.train.hooks.ema import EMA
from encodery.train.optimizer_offload import offload_optimizer


def moment(step: int) -> TrainState:
    return TrainState(step, step * 10, float(step), 0.0)


def test_average_is_the_formula_with_a_quick_start() -> None:
    net = nn.Linear(3, 2).double()
    hook = EMA(decay=0.8).build(net)
    expected = net.weight.detach().clone()
    for step in range(1, 40):
        with torch.no_grad():
            net.weight += step
        hook.after_step(moment(step))
        decay = min(0.8, step / (9 + step))
        expected = decay * expected + (1 - decay) * net.weight.detach()
    with hook.evaluation_weights():
        assert (net.weight - expected).abs().max() < 1e-10


def test_weights_are_swapped_for_evaluation_only_even_on_an_error() -> None:
    net = nn.Linear(3, 2)
    hook = EMA(decay=0.5).build(net)
    start, weight = net.weight.detach().clone(), net.weight
    with torch.no_grad():
        net.weight.add_(1.0)
    trained = net.weight.detach().clone()

    def fail() -> None:
        with hook.evaluation_weights():
            assert torch.equal(net.weight, start)
            assert net.weight is weight
            raise RuntimeError("scoring failed")

    with pytest.raises(RuntimeError, match="scoring"):
        fail()
    assert torch.equal(net.weight, trained)


def test_every_takes_an_average_at_those_steps_alone() -> None:
    net = nn.Linear(2, 2)
    hook = EMA(every=3).build(net)
    for step in range(1, 8):
        hook.after_step(moment(step))
    assert int(hook.state_tensors()["averages_taken"]) == 2


def test_average_of_another_model_is_refused() -> None:
    hook = EMA().build(nn.Linear(3, 2))
    with pytest.raises(CheckpointError, match="weight"):
        hook.load_tensors(EMA().build(nn.Linear(4, 2)).state_tensors())
    with pytest.raises(CheckpointError, match="bias"):
        hook.load_tensors(EMA().build(nn.Linear(3, 2, bias=False)).state_tensors())
    with pytest.raises(SettingsError, match="decay"):
        EMA(decay=1.0)
    with pytest.raises(SettingsError, match="every"):
        EMA(every=0)


def with_gradients(*values: float) -> nn.ParameterList:
    parameters = nn.ParameterList(torch.zeros(1) for _ in values)
    for p, value in zip(parameters, values, strict=True):
        p.grad = torch.tensor([value])
    return parameters


def test_clipping_keeps_the_direction_and_bounds_the_norm() -> None:
    parameters = with_gradients(3.0, 4.0)
    assert clip_gradients(parameters, 1.0) == 5.0
    assert [p.grad.item() for p in parameters] == pytest.approx([0.6, 0.8])
    assert clip_gradients(parameters, 2.0) == pytest.approx(1.0)
    assert [p.grad.item() for p in parameters] == pytest.approx([0.6, 0.8])
    large = with_gradients(300.0, 400.0)
    assert clip_gradients(large, 0.0) == 500.0
    assert gradient_norm(large) == 500.0
    assert gradient_norm([torch.zeros(2)]) == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_step_on_what_is_not_finite_is_skipped_and_counted(bad: float) -> None:
    parameters = with_gradients(1.0, bad)
    optimizer = torch.optim.AdamW(parameters, lr=0.1)
    guard = GuardedStep(max_norm=1.0, max_consecutive_skips=3)
    norm, taken = guard.step(optimizer)
    assert not taken
    assert not math.isfinite(norm)
    assert [p.item() for p in parameters] == [0.0, 0.0]
    assert not optimizer.state
    parameters[1].grad = torch.ones(1)
    assert guard.step(optimizer)[1]
    assert guard.state() == {"skipped": 1, "consecutive_skips": 0}
    resumed = GuardedStep(max_consecutive_skips=3)
    resumed.load_state(guard.state())
    parameters[0].grad = torch.tensor([bad])
    resumed.step(optimizer)
    resumed.step(optimizer)
    with pytest.raises(UserError, match="3 steps in a row"):
        resumed.step(optimizer)
    assert resumed.skipped == 4


def fused(size: int = 5) -> tuple[nn.Parameter, torch.optim.AdamW]:
    p = nn.Parameter(torch.ones(size))
    return p, torch.optim.AdamW([p], lr=0.1, fused=True)


@pytest.mark.parametrize("limit", [0.0, 0.5, 100.0])
def test_late_decisions_are_those_that_wait(limit: float) -> None:
    (now, first), (later, second) = fused(), fused()
    guards = GuardedStep(max_norm=limit), GuardedStep(max_norm=limit, deferred=True)
    assert can_skip_on_device(second)
    for step in range(40):
        grad = torch.randn(5, generator=torch.Generator().manual_seed(step)) * 3
        if step in (3, 4, 20):
            grad[2] = (math.nan, math.inf)[step % 2]
        norms = []
        for p, optimizer, guard in ((now, first, guards[0]), (later, second, guards[1])):
            p.grad = grad.clone()
            norms.append(guard.step(optimizer)[0])
        assert isinstance(norms[1], torch.Tensor), "nothing was read"
        assert math.isfinite(norms[0]) == bool(norms[1].isfinite())
        torch.testing.assert_close(later, now, rtol=1e-6, atol=1e-7)
    assert guards[1].skipped < 3 or guards[1].pending, "some are not counted yet"
    assert guards[1].state() == guards[0].state() == {"skipped": 3, "consecutive_skips": 0}
    for key, value in first.state[now].items():
        torch.testing.assert_close(second.state[later][key], value, rtol=1e-6, atol=1e-7)


def test_a_run_that_diverges_ends_late_where_it_is_looked_at_late() -> None:
    p, optimizer = fused()
    guard = GuardedStep(max_consecutive_skips=20, deferred=True)
    taken = 0
    with pytest.raises(UserError, match="32 steps in a row"):
        for _ in range(40):
            p.grad = torch.full((5,), math.nan)
            guard.step(optimizer)
            taken += 1
    assert taken == 31
    assert torch.equal(p, torch.ones(5))


def test_who_can_decide() -> None:
    p, optimizer = fused()
    assert can_skip_on_device(optimizer)
    assert not can_skip_on_device(torch.optim.AdamW([p], foreach=True))
    assert not can_skip_on_device(torch.optim.SGD([p], lr=1.0, fused=True))
    offload_optimizer(optimizer)
    assert not can_skip_on_device(optimizer)


def test_a_scale_falls_when_gradients_overflow_and_rises_when_they_do_not() -> None:
    p = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([p], lr=1.0)
    guard = GuardedStep(max_norm=0.0, loss_scale=8.0)
    for value, taken, scale in ((float("inf"), False, 4.0), (4.0, True, 4.0), (float("nan"), False, 2.0)):
        p.grad = torch.tensor([value])
        assert guard.step(optimizer)[1] == taken
        assert guard.loss_scale == scale
    assert p.item() == -1.0, "what stepped is the gradient of the loss, not of the scaled one"
    for _ in range(STEPS_BEFORE_SCALE_DOUBLES):
        p.grad = torch.zeros(1)
        guard.step(optimizer)
    assert guard.loss_scale == 4.0
    resumed = GuardedStep(max_norm=0.0, loss_scale=65536.0)
    resumed.load_state(guard.state())
    assert (resumed.loss_scale, resumed.steps_since_skip) == (4.0, 0)
