"""Optimiser state in main memory: the trained weights stay equal bit for bit, and little of it is on the device at a
time."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from encodery.base.errors import UserError
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.train import optimizer_offload as way
from encodery.train.launch import resume, start
from encodery.train.memory_estimate import MemoryEstimate
from encodery.train.optim import Optimizer
from encodery.train.optim.adamw import AdamW
from encodery.train.optim.lamb import LAMB
from encodery.train.optim.muon import Muon
from encodery.train.optim.stable_adamw import StableAdamW
from encodery.train.optimizer_offload import offload_optimizer, optimizer_step
from encodery.train.optimizer_state import load_state, state_tensors
from encodery.train.recipe import Recipe

Table = Callable[..., Recipe[Any]]
PARTS = [AdamW(), StableAdamW(), LAMB(), Muon()]
MODEL = ModelSettings(width=16, depth=2, heads=2, intermediate_size=24, vocab_size=64, max_length=16)


def train(part: Optimizer, away: bool, steps: int = 4) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model after a few steps on made-up gradients, of which one is missing."""
    model = build_model(MODEL, 0)
    optimizer = part.build(model)
    if away:
        offload_optimizer(optimizer)
    source = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for number, p in enumerate(model.parameters()):
            p.grad = None if number == 3 else torch.randn(p.shape, generator=source)
        optimizer_step(optimizer)
    return model, optimizer


@pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)
@pytest.mark.parametrize("size", [1, 3000, 1 << 30])
def test_weights_and_state_are_equal_bit_for_bit(part: Optimizer, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(way, "PART_BYTES", size)
    (model, optimizer), (plain, expected) = train(part, True), train(part, False)
    for (name, mine), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, theirs), name
    (mine_state, record), (their_state, their_record) = state_tensors(optimizer), state_tensors(expected)
    assert record == their_record
    assert mine_state.keys() == their_state.keys()
    assert all(torch.equal(mine_state[name], their_state[name]) for name in mine_state)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)
def test_only_the_state_of_a_part_is_on_the_device(part: Optimizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(way, "PART_BYTES", 3000)
    model, optimizer = train(part, True, steps=1)
    largest = max(p.nbytes for p in model.parameters())
    alive: list[weakref.ref[Tensor]] = []
    peak = 0
    fetch = way._fetch

    def counted(of: torch.optim.Optimizer, p: nn.Parameter) -> dict[str, Tensor]:
        nonlocal peak
        homes = fetch(of, p)
        alive.extend(weakref.ref(value) for key, value in of.state[p].items() if key != "step")
        peak = max(peak, sum(held.nbytes for one in alive if (held := one()) is not None))
        return homes

    monkeypatch.setattr(way, "_fetch", counted)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer_step(optimizer)
    moments = sum(tensor.nbytes for name, tensor in state_tensors(optimizer)[0].items() if not name.endswith(":step"))
    assert 0 < peak <= 2 * max(largest, 3000) < moments / 3
    assert not [one for one in alive if one() is not None], "copies must be freed after their part"


def test_state_is_kept_on_one_device_and_used_on_another() -> None:
    """There is no second device here. Fake tensors claim to be on one, and cannot be mixed with tensors of the CPU; but
    they have no values, so only an optimiser that reads none on the host can run on them."""
    with FakeTensorMode():
        weights = [nn.Parameter(torch.empty(8, 4, device="meta")) for _ in range(3)]
        optimizer = torch.optim.Muon(weights, lr=0.1)
        offload_optimizer(optimizer)
        for _ in range(2):
            for p in weights:
                p.grad = torch.empty_like(p)
            optimizer_step(optimizer)
        assert [state["momentum_buffer"].device.type for state in optimizer.state.values()] == ["cpu"] * 3
        with pytest.raises(RuntimeError, match="device"):
            optimizer.step()


def test_a_loaded_state_stays_in_main_memory() -> None:
    model, optimizer = train(AdamW(), True)
    tensors, record = state_tensors(optimizer)
    other = AdamW().build(model)
    offload_optimizer(other)
    load_state(other, tensors, record)
    assert all(torch.equal(tensors[name], value) for name, value in state_tensors(other)[0].items())


def test_a_run_with_offload_equals_one_without_and_can_be_resumed(
    table: Table,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    power_cut: Callable[[int], AbstractContextManager[None]],
    losses: Callable[[Path], dict[int, float]],
) -> None:
    monkeypatch.setattr(way, "PART_BYTES", 2000)
    start(table(train={"evals": 0}), tmp_path / "plain")
    with power_cut(7):
        start(table(train={"evals": 0, "optimizer_offload": True}), tmp_path / "away")
    resume(tmp_path / "away")
    assert losses(tmp_path / "away") == losses(tmp_path / "plain")


def test_the_memory_estimate_accounts_for_it(table: Table) -> None:
    plain, away = MemoryEstimate.of(1000, 500, 0, 2), MemoryEstimate.of(1000, 500, 0, 2, offload=True)
    assert (plain.memory - away.memory, away.host_memory, plain.host_memory) == (8000, 8000, 0)
    away.check(10**6, 10**6, device_free=10_000)
    with pytest.raises(UserError, match=r"train\.optimizer_offload=true"):
        plain.check(10**6, 10**6, device_free=10_000)
    with pytest.raises(UserError, match="in main memory"):
        away.check(8000, 10**6, device_free=10_000)
    with pytest.raises(UserError, match="choose a smaller model"):
        away.check(16_000, 10**6)
