"""The moving average of weights: its value, the swap for evaluation, its state."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from encodery.base.errors import CheckpointError, SettingsError
from encodery.train.hooks import TrainState
from encodery.train.hooks.ema import EMA


def state_at(step: int) -> TrainState:
    return TrainState(step, step * 10, float(step), 0.0)


def test_the_average_follows_its_formula_and_starts_fast() -> None:
    net = nn.Linear(3, 2).double()
    hook = EMA(decay=0.8).build(net)
    expected = net.weight.detach().clone()
    for step in range(1, 40):
        with torch.no_grad():
            net.weight += step
        hook.after_step(state_at(step))
        decay = min(0.8, step / (9 + step))
        expected = decay * expected + (1 - decay) * net.weight.detach()
    with hook.evaluation_weights():
        assert (net.weight - expected).abs().max() < 1e-10


def test_weights_are_swapped_for_evaluation_only_even_after_an_error() -> None:
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


def test_an_average_is_taken_every_few_steps() -> None:
    net = nn.Linear(2, 2)
    hook = EMA(every=3).build(net)
    for step in range(1, 8):
        hook.after_step(state_at(step))
    assert int(hook.state_tensors()["averages_taken"]) == 2


def test_the_average_of_another_model_is_refused() -> None:
    hook = EMA().build(nn.Linear(3, 2))
    with pytest.raises(CheckpointError, match="weight"):
        hook.load_tensors(EMA().build(nn.Linear(4, 2)).state_tensors())
    with pytest.raises(CheckpointError, match="bias"):
        hook.load_tensors(EMA().build(nn.Linear(3, 2, bias=False)).state_tensors())
    with pytest.raises(SettingsError, match="decay"):
        EMA(decay=1.0)
    with pytest.raises(SettingsError, match="every"):
        EMA(every=0)
