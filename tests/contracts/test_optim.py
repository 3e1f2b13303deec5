"""Contract of the optimisers: whatever parts lie in the folder, on a small encoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from encodery.base.errors import CheckpointError
from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode, encode
from encodery.model.network import Model, build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
from encodery.train.optim import Optimizer
from encodery.train.optimizer_state import load_state, set_lr, state_tensors

V = 64
NAMES = part_names(Optimizer)


def model() -> Model:
    return build_model(ModelSettings(width=16, depth=2, heads=2, vocab_size=V, max_length=32), seed=3)


def loss(net: Model, seed: int = 0) -> Tensor:
    ids = torch.randint(0, V, (60,), generator=torch.Generator().manual_seed(seed)).tolist()
    batch = Batch.from_sequences([ids[:30], ids[30:45], ids[45:]])
    logits = net.mlm_head(net(batch).hidden, net.encoder)
    return torch.nn.functional.cross_entropy(logits, batch.ids.flip(0))


def steps(net: Model, optimizer: torch.optim.Optimizer, seeds: range) -> list[float]:
    losses = []
    for seed in seeds:
        set_lr(optimizer, 1 / (1 + seed))
        value = loss(net, seed)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_learns_at_its_pace(name: str) -> None:
    net = model()
    before = {key: p.detach().clone() for key, p in net.named_parameters()}
    optimizer = find_part(Optimizer, name)().build(net, lambda key: 0.0 if "blocks.0." in key else 0.5)
    set_lr(optimizer, 1.0)
    loss(net).backward()
    optimizer.step()
    stood = {key for key, p in net.named_parameters() if torch.equal(p, before[key])}
    assert {key for key in before if "blocks.0." in key} <= stood
    assert not {key for key, p in net.named_parameters() if "blocks.1." in key and p.ndim == 2} & stood


@pytest.mark.parametrize("name", NAMES)
def test_lowers_the_loss_and_repeats_itself(name: str) -> None:
    runs = []
    for _ in range(2):
        net = model()
        optimizer = find_part(Optimizer, name)().build(net)
        losses = []
        set_lr(optimizer, 5.0)
        for _ in range(25):
            value = loss(net)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            losses.append(value.item())
        runs.append(losses)
    assert runs[0][-1] < 0.85 * runs[0][0]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("name", NAMES)
def test_resumed_equals_uninterrupted_bit_for_bit(name: str, tmp_path: Path) -> None:
    straight = model()
    whole = find_part(Optimizer, name)().build(straight)
    expected = steps(straight, whole, range(8))

    first = model()
    optimizer = find_part(Optimizer, name)().build(first)
    assert steps(first, optimizer, range(4)) == expected[:4]
    tensors, record = state_tensors(optimizer)
    save_file(tensors, tmp_path / "state.safetensors")
    (tmp_path / "state.json").write_text(json.dumps(record))

    second = model()
    second.load_state_dict(first.state_dict())
    resumed = find_part(Optimizer, name)().build(second)
    load_state(resumed, load_file(tmp_path / "state.safetensors"), json.loads((tmp_path / "state.json").read_text()))
    again, _ = state_tensors(resumed)
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)
    assert steps(second, resumed, range(4, 8)) == expected[4:]
    for (key, a), b in zip(straight.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


@pytest.mark.parametrize("name", NAMES)
def test_loaded_state_is_a_copy(name: str) -> None:
    net, other = model(), model()
    optimizer, second = find_part(Optimizer, name)().build(net), find_part(Optimizer, name)().build(other)
    steps(net, optimizer, range(1))
    tensors, record = state_tensors(optimizer)
    kept = {key: value.clone() for key, value in tensors.items()}
    load_state(second, tensors, record)
    steps(other, second, range(2))
    assert all(torch.equal(kept[key], tensors[key]) for key in kept)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_in_one_group_and_norms_biases_and_positions_do_not_decay(name: str) -> None:
    net = model()
    part = find_part(Optimizer, name)(weight_decay=0.1)
    optimizer = part.build(net)
    listed = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(listed) == len({id(p) for p in listed})
    assert {id(p) for p in listed} == {id(p) for p in net.parameters()}
    named = {n: g["weight_decay"] for g in optimizer.param_groups for n in g["param_names"]}
    assert {n for n, decay in named.items() if decay == 0} == {
        n for n, p in net.named_parameters() if p.ndim < 2 or "positions" in n
    }
    assert named[_word_table(net)] == 0.1
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for n, p in net.named_parameters():
        if named[n] == 0:
            assert torch.equal(p, before[n]), f"{n} decayed"
        else:
            assert p.norm() < before[n].norm(), f"{n} did not decay"


def _word_table(net: Model) -> str:
    return next(n for n, p in net.named_parameters() if p is net.encoder.token_embeddings)


@pytest.mark.parametrize("name", NAMES)
def test_rates_scale_the_peak(name: str) -> None:
    net = model()
    optimizer = find_part(Optimizer, name)().build(net)
    peaks = [group["peak_lr"] for group in optimizer.param_groups]
    set_lr(optimizer, 0.25)
    set_lr(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [peak / 2 for peak in peaks]
    set_lr(optimizer, 0.0)
    before = [p.detach().clone() for p in net.parameters()]
    loss(net).backward()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_what_has_no_gradient_stays(name: str) -> None:
    net = model()
    frozen = net.encoder.token_embeddings
    assert isinstance(frozen, torch.nn.Parameter)
    frozen.requires_grad_(False)
    optimizer = find_part(Optimizer, name)().build(net)
    before = frozen.clone()
    idle = net.encoder.blocks[0]
    kept = [p.detach().clone() for p in idle.parameters()]
    loss(net).backward()
    for p in idle.parameters():
        p.grad = None
    optimizer.step()
    assert torch.equal(frozen, before)
    assert all(torch.equal(a, b) for a, b in zip(kept, idle.parameters(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_state_of_something_else_is_refused(name: str) -> None:
    net = model()
    optimizer = find_part(Optimizer, name)().build(net)
    steps(net, optimizer, range(1))
    tensors, record = state_tensors(optimizer)
    with pytest.raises(CheckpointError, match="the recipe uses"):
        load_state(optimizer, tensors, {**record, "optimizer": "Other"})
    with pytest.raises(CheckpointError, match="other parameters"):
        load_state(optimizer, tensors, {**record, "parameters": record["parameters"][1:]})
    key = next(k for k, v in tensors.items() if v.ndim == 2)
    with pytest.raises(CheckpointError, match="shape"):
        load_state(optimizer, {**tensors, key: tensors[key][:1]}, record)


@pytest.mark.parametrize("name", NAMES)
def test_settings_round_trip(name: str) -> None:
    part = find_part(Optimizer, name)(lr=0.003)
    assert decode(Optimizer, encode(part)) == part
