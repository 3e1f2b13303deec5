"""Contract of the hooks: every check of `encodery.checks.hooks` on every part in the folder; the default hook."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from encodery import checks
from encodery.base.parts import find_part, part_names
from encodery.checks import hooks
from encodery.train.hooks import Hook, RunningHook, TrainState


@pytest.mark.parametrize("check", checks.functions(hooks), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(Hook))
def test_contract(name: str, check: checks.Check, run_check: Callable[..., None]) -> None:
    run_check(check, find_part(Hook, name)())


def test_the_default_hook_does_nothing() -> None:
    net = hooks.example()
    before = [p.detach().clone() for p in net.parameters()]
    hook = RunningHook()
    hook.before_step(TrainState(0, 0, 0.0, 0.0))
    hook.after_step(TrainState(1, 1, 1.0, 0.1))
    assert hook.metrics() == {}
    assert hook.state_tensors() == {}
    hook.load_tensors({})
    assert all(torch.equal(a, b) for a, b in zip(before, hooks.evaluated(hook, net), strict=True))
