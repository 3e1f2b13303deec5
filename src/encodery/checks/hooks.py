"""Checks of hooks, on a linear layer whose weights change at random in every step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from encodery.base.settings import decode, encode
from encodery.train.hooks import Hook, RunningHook, TrainState


def example() -> nn.Module:
    """Return a layer; equal ones in every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(4, 3)


def run(hook: RunningHook, net: nn.Module, steps: range) -> None:
    """Make steps that change the weights by numbers that depend on the step only."""
    for step in steps:
        hook.before_step(TrainState(step, step, step, step / 20))
        with torch.no_grad():
            for p in net.parameters():
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(step)))
        hook.after_step(TrainState(step + 1, step + 1, step + 1, (step + 1) / 20))
        assert all(isinstance(value, float) for value in hook.metrics().values()), "metrics must be floats"


def evaluated(hook: RunningHook, net: nn.Module) -> list[Tensor]:
    """Return the weights that are scored."""
    with hook.evaluation_weights():
        return [p.detach().clone() for p in net.parameters()]


def check_settings_round_trip(part: Hook) -> None:
    """The part is what its settings decode to."""
    assert decode(Hook, encode(part)) == part


def check_resume(part: Hook) -> None:
    """A hook that is resumed from its state equals an uninterrupted one bit for bit."""
    whole_net, first_net, second_net = example(), example(), example()
    whole, first = part.build(whole_net), part.build(first_net)
    run(whole, whole_net, range(12))
    run(first, first_net, range(5))
    state = {key: value.clone() for key, value in first.state_tensors().items()}
    second_net.load_state_dict(first_net.state_dict())
    second = part.build(second_net)
    second.load_tensors(state)
    run(second, second_net, range(5, 12))
    for a, b in zip(evaluated(whole, whole_net), evaluated(second, second_net), strict=True):
        assert torch.equal(a, b), "the evaluation weights differ"
    resumed = second.state_tensors()
    assert resumed.keys() == whole.state_tensors().keys(), "the states hold other tensors"
    assert all(torch.equal(value, resumed[key]) for key, value in whole.state_tensors().items()), "the states differ"


def check_evaluation(part: Hook) -> None:
    """An evaluation leaves the trained weights as they were."""
    net = example()
    hook = part.build(net)
    run(hook, net, range(4))
    before = [p.detach().clone() for p in net.parameters()]
    evaluated(hook, net)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True)), "the weights changed"
