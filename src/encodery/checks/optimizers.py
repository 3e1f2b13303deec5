"""Checks of optimisers, each on a small encoder that predicts random tokens."""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from encodery.base.errors import CheckpointError
from encodery.base.settings import decode, encode
from encodery.checks import raised_message
from encodery.model.network import Model, build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
from encodery.train.optim import Optimizer
from encodery.train.optimizer_state import load_state, set_lr, state_tensors

VOCAB_SIZE = 64


def example() -> Model:
    """Return a model of two layers; equal ones in every call."""
    return build_model(ModelSettings(width=16, depth=2, heads=2, vocab_size=VOCAB_SIZE, max_length=32), seed=3)


def loss(net: Model, seed: int = 0) -> Tensor:
    """Return the loss of a batch that depends on the seed only."""
    ids = torch.randint(0, VOCAB_SIZE, (60,), generator=torch.Generator().manual_seed(seed)).tolist()
    batch = Batch.from_sequences([ids[:30], ids[30:45], ids[45:]])
    logits = net.mlm_head(net(batch).hidden, net.encoder)
    return torch.nn.functional.cross_entropy(logits, batch.ids.flip(0))


def train(net: Model, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    """Make steps, each with its own batch and learning rate, and return their losses."""
    losses = []
    for step in steps:
        set_lr(optimizer, 1 / (1 + step))
        losses.append(_step(net, optimizer, step))
    return losses


def _step(net: Model, optimizer: torch.optim.Optimizer, seed: int) -> float:
    value = loss(net, seed)
    optimizer.zero_grad()
    torch.autograd.backward(value)
    optimizer.step()
    return value.item()


def _backward(net: Model) -> None:
    torch.autograd.backward(loss(net))


def _copies(net: Model) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in net.named_parameters()}


def check_settings_round_trip(part: Optimizer) -> None:
    """The part is what its settings decode to."""
    for one in (part, dataclasses.replace(part, lr=0.003)):
        assert decode(Optimizer, encode(one)) == one


def check_lr_scale(part: Optimizer) -> None:
    """Every matrix is updated, except those whose learning rate is scaled to 0."""
    net = example()
    before = _copies(net)
    optimizer = part.build(net, lambda name: 0.0 if "blocks.0." in name else 0.5)
    set_lr(optimizer, 1.0)
    _backward(net)
    optimizer.step()
    for name, parameter in net.named_parameters():
        if "blocks.0." in name:
            assert torch.equal(parameter, before[name]), f"{name} changed at a learning rate of 0"
        elif "blocks.1." in name and parameter.ndim == 2:
            assert not torch.equal(parameter, before[name]), f"{name} was not updated"


def check_loss_decreases(part: Optimizer) -> None:
    """Twenty-five steps on one batch lower the loss by 15 %, and a second run has the same losses."""
    runs = []
    for _ in range(2):
        net = example()
        optimizer = part.build(net)
        set_lr(optimizer, 5.0)
        runs.append([_step(net, optimizer, 0) for _ in range(25)])
    assert runs[0][-1] < 0.85 * runs[0][0], f"the loss went from {runs[0][0]:.3f} to {runs[0][-1]:.3f}"
    assert runs[0] == runs[1], "a second run has other losses"


def check_resume(part: Optimizer) -> None:
    """A run that is resumed from the stored state equals an uninterrupted one bit for bit."""
    net, first, second = example(), example(), example()
    expected = train(net, part.build(net), range(8))
    optimizer = part.build(first)
    assert train(first, optimizer, range(4)) == expected[:4]
    tensors, record = state_tensors(optimizer)
    stored, record = _through_files(tensors, record)
    second.load_state_dict(first.state_dict())
    resumed = part.build(second)
    load_state(resumed, stored, record)
    again, _ = state_tensors(resumed)
    assert again.keys() == tensors.keys(), "the resumed state has other tensors"
    assert all(torch.equal(again[key], tensors[key]) for key in tensors), "the resumed state differs"
    assert train(second, resumed, range(4, 8)) == expected[4:], "the losses after resuming differ"
    for (key, one), other in zip(net.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other), f"{key} differs after resuming"


def _through_files(tensors: dict[str, Tensor], record: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        save_file(tensors, Path(folder) / "state.safetensors")
        return load_file(Path(folder) / "state.safetensors"), json.loads(json.dumps(record))


def check_loaded_state_is_a_copy(part: Optimizer) -> None:
    """Steps after loading do not write to the tensors that were loaded."""
    net, other = example(), example()
    optimizer, second = part.build(net), part.build(other)
    train(net, optimizer, range(1))
    tensors, record = state_tensors(optimizer)
    before = {key: value.clone() for key, value in tensors.items()}
    load_state(second, tensors, record)
    train(other, second, range(2))
    assert all(torch.equal(before[key], tensors[key]) for key in before), "the loaded tensors were changed"


def check_weight_decay(part: Optimizer) -> None:
    """Every parameter is in one group; all but norms, biases and positions decay."""
    net = example()
    optimizer = dataclasses.replace(part, weight_decay=0.1).build(net)
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(grouped) == len({id(p) for p in grouped}), "a parameter is in two groups"
    assert {id(p) for p in grouped} == {id(p) for p in net.parameters()}, "a parameter is in no group"
    decays = {name: group["weight_decay"] for group in optimizer.param_groups for name in group["param_names"]}
    assert {name for name, decay in decays.items() if decay == 0} == {
        name for name, p in net.named_parameters() if p.ndim < 2 or "positions" in name
    }
    assert decays[next(name for name, p in net.named_parameters() if p is net.encoder.token_embeddings)] == 0.1
    before = _copies(net)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in net.named_parameters():
        if decays[name] == 0:
            assert torch.equal(p, before[name]), f"{name} decayed"
        else:
            assert p.norm() < before[name].norm(), f"{name} did not decay"


def check_learning_rate(part: Optimizer) -> None:
    """`set_lr` multiplies the peak learning rate of each group, and at 0 nothing changes."""
    net = example()
    optimizer = part.build(net)
    peaks = [group["peak_lr"] for group in optimizer.param_groups]
    set_lr(optimizer, 0.25)
    set_lr(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [peak / 2 for peak in peaks]
    set_lr(optimizer, 0.0)
    before = _copies(net)
    _backward(net)
    optimizer.step()
    assert all(torch.equal(before[name], p) for name, p in net.named_parameters()), "a weight changed at a rate of 0"


def check_parameters_without_a_gradient(part: Optimizer) -> None:
    """Frozen parameters, and those that the loss did not reach, are not changed."""
    net = example()
    frozen = net.encoder.token_embeddings
    frozen.requires_grad_(False)
    optimizer = part.build(net)
    before = _copies(net)
    _backward(net)
    for p in net.encoder.blocks[0].parameters():
        p.grad = None
    optimizer.step()
    for name, p in net.named_parameters():
        if p is frozen or "blocks.0." in name:
            assert torch.equal(p, before[name]), f"{name} has no gradient and changed"


def check_state_of_another_run_is_refused(part: Optimizer) -> None:
    """The state of another optimiser, of other parameters or of other shapes raises `CheckpointError`."""
    net = example()
    optimizer = part.build(net)
    train(net, optimizer, range(1))
    tensors, record = state_tensors(optimizer)
    matrix = next(key for key, value in tensors.items() if value.ndim == 2)
    for message, state, changed in (
        ("the recipe uses", tensors, {**record, "optimizer": "Other"}),
        ("other parameters", tensors, {**record, "parameters": record["parameters"][1:]}),
        ("shape", {**tensors, matrix: tensors[matrix][:1]}, record),
    ):
        error = raised_message(CheckpointError, functools.partial(load_state, optimizer, state, changed))
        assert message in error, f"'{error}' does not say '{message}'"
