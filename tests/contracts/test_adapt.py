"""Contract of adaptations: whatever parts lie in the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from encodery.adapt import Adaptation, count_trainable, inject, merge_and_unload
from encodery.base.parts import part_names
from encodery.base.settings import decode, encode
from encodery.model.load import load_model, save_model
from encodery.model.network import Model, build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch

SMALL: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4},
    "dora": {"rank": 4, "targets": ["query", "value", "up"]},
    "adapters": {"size": 4},
    "prompt": {"num_tokens": 5, "deep": True},
    "combined": {"parts": [{"is": "lora", "rank": 2}, {"is": "bitfit"}]},
}
SETTINGS = {
    "post": ModelSettings(width=32, depth=2, heads=2, intermediate_size=64, vocab_size=400, max_length=24),
    "pre": decode(
        ModelSettings,
        {
            "width": 32,
            "depth": 2,
            "heads": 2,
            "intermediate_size": 48,
            "vocab_size": 400,
            "max_length": 24,
            "positions": "rotary",
        }
        | {"ffn": "glu", "block": "pre", "mask": {"is": "alternating", "size": 4, "every": 2}},
    ),
}
SEQUENCES = [list(range(5, 5 + length)) for length in (3, 24, 1, 9)]


def part(name: str) -> Adaptation:
    return decode(Adaptation, {"is": name, **SMALL.get(name, {})})


def hidden(model: Model, sequences: list[list[int]] = SEQUENCES) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model.eval()(Batch.from_sequences(sequences)).hidden
        return found


def begun(name: str, kind: str = "post") -> Model:
    model = build_model(SETTINGS[kind], seed=3)
    inject(model, part(name), seed=5)
    return model


def moved(model: Model) -> Model:
    """Everything that learns, elsewhere."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=generator), alpha=0.05)
    return model


@pytest.mark.parametrize("name", part_names(Adaptation))
def test_only_what_is_said_learns_and_gradients_reach_all_of_it(name: str) -> None:
    assert decode(Adaptation, encode(part(name))) == part(name)
    model = begun(name)
    some, whole = count_trainable(model)
    assert 0 < some < whole
    assert some < 0.1 * whole or not part(name).parameter_efficient
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    target = torch.randn(37, 32)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = (model.train()(Batch.from_sequences(SEQUENCES)).hidden - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for key, p in model.named_parameters():
        if p.requires_grad and not key.startswith("heads."):
            assert p.grad is not None, key
            assert p.grad.abs().sum() > 0, key
        elif not p.requires_grad:
            assert p.grad is None
            assert torch.equal(p, before[key]), key


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("name", part_names(Adaptation))
def test_the_finished_model_computes_the_same_and_is_an_ordinary_one(name: str, kind: str, tmp_path: Path) -> None:
    model = moved(begun(name, kind))
    trained = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    plain = merge_and_unload(model, part(name))
    torch.testing.assert_close(hidden(plain), hidden(model), atol=2e-5, rtol=1e-5)
    assert all(p.requires_grad for p in plain.parameters())
    assert {key: tensor.shape for key, tensor in plain.state_dict().items()} == {
        key: tensor.shape for key, tensor in Model(plain.settings).state_dict().items()
    }
    save_model(tmp_path / "model", plain)
    torch.testing.assert_close(hidden(load_model(tmp_path / "model").model), hidden(plain), atol=0, rtol=0)
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in trained.items()), "a copy was merged"


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("name", part_names(Adaptation))
def test_a_packed_batch_equals_its_sequences_one_by_one(name: str, kind: str) -> None:
    model = moved(begun(name, kind))
    apart = torch.cat([hidden(model, [sequence]) for sequence in SEQUENCES])
    torch.testing.assert_close(hidden(model), apart, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", part_names(Adaptation))
def test_equal_seeds_begin_equally_and_a_checkpoint_fits_a_new_beginning(name: str) -> None:
    one, other = begun(name), begun(name)
    assert torch.equal(hidden(one), hidden(other))
    other.load_state_dict(moved(one).state_dict())
    assert torch.equal(hidden(one), hidden(other))
    assert [p.requires_grad for p in one.parameters()] == [p.requires_grad for p in other.parameters()]


def test_without_an_adaptation_everything_learns() -> None:
    model = build_model(SETTINGS["post"])
    inject(model, None, seed=1)
    some, whole = count_trainable(model)
    assert some == whole
    assert merge_and_unload(model, None) is model
