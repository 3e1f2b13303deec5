"""Counts from settings agree with real modules."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from encodery.base.settings import decode
from encodery.model.count import activation_bytes, flops_per_token, num_parameters
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch

BASE = {"width": 48, "depth": 3, "heads": 3, "intermediate_size": 80, "vocab_size": 200, "max_length": 64}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gated": {"ffn": "glu", "block": "pre", "norm": "rms", "positions": "rotary", "mask": {"is": "window", "size": 4}},
    "narrow": {
        "embeddings": {"is": "factorized", "width": 16},
        "type_vocab_size": 2,
        "head": {"is": "mlm", "tied": False},
    },
    "uneven": {"layers": [{"heads": 1}, {"heads": 0, "intermediate_size": 20}, {"heads": 5, "intermediate_size": 0}]},
    "headless": {"head": None, "positions": {"is": "sinusoidal", "scaled": True}},
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def settings(request: pytest.FixtureRequest) -> ModelSettings:
    return decode(ModelSettings, {**BASE, **request.param})


def test_parameters(settings: ModelSettings) -> None:
    model = build_model(settings)
    assert num_parameters(settings) == sum(p.numel() for p in model.parameters())
    tables = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding))
    assert num_parameters(settings, embeddings=False) == num_parameters(settings) - tables


@pytest.mark.parametrize("name", ["plain", "uneven"])
def test_flops_agree_with_counted_ones(name: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    settings = decode(ModelSettings, {**BASE, **VARIANTS[name]})
    model = build_model(settings)
    batch = Batch.from_sequences([[1] * 32] * 4)
    with FlopCounterMode(display=False) as counter:
        hidden = model(batch).hidden
        model.mlm_head(hidden[:32], model.encoder)
    assert flops_per_token(settings, 32, predicted_fraction=0.25, backward=False) * 128 == pytest.approx(
        counter.get_total_flops()
    )
    assert flops_per_token(settings, 32) == 3 * flops_per_token(settings, 32, backward=False)


def test_flops_of_windows() -> None:
    window = decode(ModelSettings, {**BASE, "mask": {"is": "window", "size": 4}})
    whole = dataclasses.replace(window, mask=decode(ModelSettings, BASE).mask)
    seen = sum(min(i + 4, 31) - max(i - 4, 0) + 1 for i in range(32)) / 32
    saved = 3 * 4 * 48 * (32 - seen) * 3
    assert flops_per_token(whole, 32) - flops_per_token(window, 32) == pytest.approx(saved)
    assert flops_per_token(whole, 5) == flops_per_token(window, 5)


def test_activations_agree_with_what_is_kept(settings: ModelSettings) -> None:
    model = build_model(dataclasses.replace(settings, head=None))
    batch = Batch.from_sequences([[1] * 32] * 8)
    own = {p.data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def note(x: torch.Tensor) -> torch.Tensor:
        if x.data_ptr() not in own and x.is_floating_point():
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        hidden = model(batch).hidden
    assert hidden.shape == (256, 48)
    assert activation_bytes(model.settings, 256, 32) == pytest.approx(sum(kept.values()), rel=0.2)
