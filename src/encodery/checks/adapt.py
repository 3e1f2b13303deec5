"""Checks of adaptations, each on two small models: post-norm with learned positions, and pre-norm with rotary ones."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from encodery.adapt import Adaptation, count_trainable, inject, merge_and_unload
from encodery.base.settings import decode, encode
from encodery.model.load import load_model, save_model
from encodery.model.network import Model, build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch

SIZES = {"width": 32, "depth": 2, "heads": 2, "intermediate_size": 64, "vocab_size": 400, "max_length": 24}
PRE_NORM = {"positions": "rotary", "ffn": "glu", "block": "pre", "mask": {"is": "alternating", "size": 4, "every": 2}}
SETTINGS = (decode(ModelSettings, SIZES), decode(ModelSettings, {**SIZES, **PRE_NORM}))
SEQUENCES = [list(range(5, 5 + length)) for length in (3, 24, 1, 9)]


def hidden(model: Model, sequences: list[list[int]] = SEQUENCES) -> Tensor:
    """Return the hidden states (T, H) of a model in evaluation mode."""
    with torch.inference_mode():
        states: Tensor = model.eval()(Batch.from_sequences(sequences)).hidden
        return states


def adapted(part: Adaptation, settings: ModelSettings = SETTINGS[0]) -> Model:
    """Return a fresh model with the adaptation injected."""
    model = build_model(settings, seed=3)
    inject(model, part, seed=5)
    return model


def trained(model: Model) -> Model:
    """Move every weight that learns, as training would."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=generator), alpha=0.05)
    return model


def trained_models(part: Adaptation) -> Iterator[Model]:
    """Return a trained model of each kind."""
    return (trained(adapted(part, settings)) for settings in SETTINGS)


def check_settings_round_trip(part: Adaptation) -> None:
    """The part is what its settings decode to."""
    assert decode(Adaptation, encode(part)) == part


def check_number_of_trainable_weights(part: Adaptation) -> None:
    """Some weights learn, not all; under a tenth of them if the part calls itself parameter-efficient."""
    learning, total = count_trainable(adapted(part))
    assert 0 < learning < total
    assert learning < 0.1 * total or not part.parameter_efficient


def check_training(part: Adaptation) -> None:
    """Training lowers the loss, reaches every weight that learns, and leaves the others as they are."""
    model = adapted(part)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    target = torch.randn(sum(map(len, SEQUENCES)), 32, generator=torch.Generator().manual_seed(1))
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
            assert p.grad is not None, f"{key} has no gradient"
            assert p.grad.abs().sum() > 0, f"the gradient of {key} is zero"
        elif not p.requires_grad:
            assert p.grad is None, f"{key} is frozen and has a gradient"
            assert torch.equal(p, before[key]), f"{key} is frozen and changed"


def check_merge(part: Adaptation) -> None:
    """The merged model computes the same, is an ordinary one that can be stored, and is a copy."""
    for model in trained_models(part):
        before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        merged = merge_and_unload(model, part)
        torch.testing.assert_close(hidden(merged), hidden(model), atol=2e-5, rtol=1e-5)
        assert all(p.requires_grad for p in merged.parameters()), "a merged weight is frozen"
        assert {key: tensor.shape for key, tensor in merged.state_dict().items()} == {
            key: tensor.shape for key, tensor in Model(merged.settings).state_dict().items()
        }
        with tempfile.TemporaryDirectory() as folder:
            save_model(Path(folder) / "model", merged)
            stored = load_model(Path(folder) / "model").model
            torch.testing.assert_close(hidden(stored), hidden(merged), atol=0, rtol=0)
        assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in before.items()), "no copy was merged"


def check_packed_equals_single(part: Adaptation) -> None:
    """A sequence gets the same states alone as in a packed batch."""
    for model in trained_models(part):
        alone = torch.cat([hidden(model, [sequence]) for sequence in SEQUENCES])
        torch.testing.assert_close(hidden(model), alone, atol=1e-5, rtol=1e-5)


def check_reproducible(part: Adaptation) -> None:
    """Equal seeds inject equally, and the state of a trained model fits a newly adapted one."""
    first, second = adapted(part), adapted(part)
    assert torch.equal(hidden(first), hidden(second))
    second.load_state_dict(trained(first).state_dict())
    assert torch.equal(hidden(first), hidden(second))
    assert [p.requires_grad for p in first.parameters()] == [p.requires_grad for p in second.parameters()]
