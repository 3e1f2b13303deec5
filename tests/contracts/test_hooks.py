"""Contract of the hooks: whatever parts lie in the folder; and that a hook which says nothing does nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode, encode
from encodery.train.hooks import Hook, RunningHook, TrainState

NAMES = part_names(Hook)


def run(hook: RunningHook, net: nn.Module, steps: range) -> None:
    for step in steps:
        hook.before_step(TrainState(step, step, step, step / 20))
        with torch.no_grad():
            for p in net.parameters():
                p += torch.randn(p.shape, generator=torch.Generator().manual_seed(step))
        hook.after_step(TrainState(step + 1, step + 1, step + 1, (step + 1) / 20))
        assert all(isinstance(value, float) for value in hook.metrics().values())


def scored(hook: RunningHook, net: nn.Module) -> list[torch.Tensor]:
    with hook.evaluation_weights():
        return [p.detach().clone() for p in net.parameters()]


@pytest.mark.parametrize("name", NAMES)
def test_resumed_equals_uninterrupted_bit_for_bit(name: str) -> None:
    straight, parted = nn.Linear(4, 3), nn.Linear(4, 3)
    parted.load_state_dict(straight.state_dict())
    whole, first = find_part(Hook, name)().build(straight), find_part(Hook, name)().build(parted)
    run(whole, straight, range(12))
    run(first, parted, range(5))
    state = {key: value.clone() for key, value in first.state_tensors().items()}
    again = nn.Linear(4, 3)
    again.load_state_dict(parted.state_dict())
    second = find_part(Hook, name)().build(again)
    second.load_tensors(state)
    run(second, again, range(5, 12))
    for a, b in zip(scored(whole, straight), scored(second, again), strict=True):
        assert torch.equal(a, b)
    assert second.state_tensors().keys() == whole.state_tensors().keys()
    assert all(torch.equal(value, second.state_tensors()[key]) for key, value in whole.state_tensors().items())


@pytest.mark.parametrize("name", NAMES)
def test_evaluating_leaves_the_trained_weights_as_they_were(name: str) -> None:
    net = nn.Linear(4, 3)
    hook = find_part(Hook, name)().build(net)
    run(hook, net, range(4))
    before = [p.detach().clone() for p in net.parameters()]
    scored(hook, net)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_settings_round_trip(name: str) -> None:
    part = find_part(Hook, name)()
    assert decode(Hook, encode(part)) == part


def test_a_hook_that_says_nothing_does_nothing() -> None:
    net = nn.Linear(4, 3)
    before = [p.detach().clone() for p in net.parameters()]
    hook = RunningHook()
    hook.before_step(TrainState(0, 0, 0.0, 0.0))
    hook.after_step(TrainState(1, 1, 1.0, 0.1))
    assert hook.metrics() == {}
    assert hook.state_tensors() == {}
    hook.load_tensors({})
    assert all(torch.equal(a, b) for a, b in zip(before, scored(hook, net), strict=True))
